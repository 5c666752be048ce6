"""What the authors of the data sets of images with dense labels say that they hold.

Whatever could not be looked up is left out.
"""

from bench.datasets.facts import Facts

ADE20K = Facts(
    counts={"train": 20_210, "val": 2_000},
    classes=150,
    gigabytes=0.97,
    files={
        "images/training/ADE_train_00000001.jpg": "an image",
        "annotations/training/ADE_train_00000001.png": "its mask: 0 for no class, class k as k + 1",
    },
    known_from="CSAILVision/sceneparsing, the challenge of 2016; the size from a public log of the download of "
    "ADEChallengeData2016.zip (967,382,037 bytes)",
)
VOC2012 = Facts(
    counts={"train": 1_464, "val": 1_449},
    classes=21,
    gigabytes=2.0,
    files={
        "JPEGImages/2007_000032.jpg": "an image",
        "SegmentationClass/2007_000032.png": "its mask: 0 is the background, 255 no class",
    },
    known_from="the challenge's development kit of 2012; size from tensorflow/datasets, url_checksums/voc.txt",
)
CITYSCAPES = Facts(
    counts={"train": 2_975, "val": 500},
    classes=19,
    gigabytes=11.2,
    files={
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": "an image of 2048x1024",
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png": "its mask, 255: no class",
    },
    known_from="arXiv 1604.01685, Section 2",
)
NYU = Facts(
    counts={"train": 24_231, "test": 654},
    gigabytes=5.0,
    files={
        "images/train/bathroom_rgb_00045.jpg": "an image of 640x480, in this folder or below it",
        "annotations/train/bathroom_rgb_00045.png": "its depth in millimetres, 16 bits",
    },
    known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d; about 5 GB as the author of cleinc/bts says of its "
    "archive of these frames (issue 66); no terms at tensorflow.org/datasets/catalog/nyu_depth_v2",
)
KITTI = Facts(
    counts={"train": 23_158, "test": 652},
    gigabytes=189,
    files={
        "images/train/2011_09_26/0000000005.png": "an image, in this folder or below it",
        "annotations/train/2011_09_26/0000000005.png": "its depth in metres times 256, 0: not known",
    },
    known_from="SwinTransformer/MIM-Depth-Estimation@59ba08d (Eigen's split, improved ground truth); 14 GB of depth as "
    "KITTI's page names it, 175 GB of raw data as nianticlabs/monodepth2 says",
)
COCO = Facts(
    counts={"train": 118_287, "val": 5_000},
    classes=80,
    gigabytes=19.2,
    files={"train2017/000000000009.jpg": "an image", "val2017/000000000139.jpg": "an image"},
    known_from="cocodataset.org",
)
COCO_PERSONS = Facts(
    counts={"train": 118_287, "val": 5_000},
    classes=1,
    gigabytes=19.2,
    files=COCO.files,
    known_from="cocodataset.org; also images without a person",
)
CROWDPOSE = Facts(
    counts={"train": 12_000, "test": 8_000},
    classes=1,
    files={"images/100000.jpg": "an image of any split"},
    known_from="Jeff-sjtu/CrowdPose: 10,000, 2,000 and 8,000; its train and val are trained on. Its README has no "
    "terms (issue 14 asks for them, unanswered) and no size",
)
AP10K = Facts(
    counts={"train": 7_023, "test": 1_997},
    classes=54,
    gigabytes=3.4,
    files={"data/000000000001.jpg": "an image of any split"},
    known_from="AlexTheBad/AP-10K: 10,015 images of 54 species; split 1 of 3 from huggingface.co/datasets/tlpss/"
    "ap10k-cropped-512x512, with 995 to validate on; size of ap-10k.zip from a public guide to its download",
)

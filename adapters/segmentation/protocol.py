"""Semantic segmentation's plain values: layouts, data sets and protocols. Imports no torch."""

import dataclasses
from typing import Any

from adapters.openmmlab.config import HeadProtocol
from bench.datasets.dataset import Dataset, Facts

METRICS = ("mIoU", "mAcc", "aAcc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images and masks of a data set are; `{split}` stands for the name given as `train` or `val`.

    Args:
        upstream: mmsegmentation's data set class; names the classes unless `classes` does.
        classes: JSON file with the key "classes".
        listing: text file of names without suffix, one per line; "" for all images of the folder.
        reduce_zero_label: whether masks store class k as k + 1, and no class as 0.
    """

    upstream: str = "BaseSegDataset"
    classes: str = ""
    images: str
    masks: str
    listing: str = ""
    image_suffix: str
    mask_suffix: str = ".png"
    reduce_zero_label: bool = False
    train: str = "train"
    val: str = "val"

    def paths(self, split: str) -> tuple[str, ...]:
        """Return the paths that must exist for "train" or "val"."""
        name = getattr(self, split)
        paths = (self.listing, self.images, self.masks, self.classes)
        return tuple(p.format(split=name) for p in paths if p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(HeadProtocol):
    """AdamW with a linear warm-up, then linear decay to zero, updated every iteration.

    Args:
        img_size: side in pixels of the square training crop, and of the sliding window at test time.
        stride: of that window, in pixels; 0 tests on the whole image at once.
        channels: width of UPerNet's head; 0 for the linear head.
        ratio_range: the short side is resized to img_size times a number drawn from this range.
    """

    warmup_epochs: float
    channels: int = 0
    ratio_range: tuple[float, float] = (0.5, 2.0)
    stride: int = 0


SCENES_LAYOUT = Layout(
    classes="semantic/classes.json", images="images/{split}", masks="semantic/{split}", image_suffix=".png"
)
VOC_LAYOUT = Layout(
    upstream="PascalVOCDataset",
    images="JPEGImages",
    masks="SegmentationClass",
    listing="ImageSets/Segmentation/{split}.txt",
    image_suffix=".jpg",
)
ADE_LAYOUT = Layout(
    upstream="ADE20KDataset",
    images="images/{split}",
    masks="annotations/{split}",
    image_suffix=".jpg",
    reduce_zero_label=True,
    train="training",
    val="validation",
)
CITYSCAPES_LAYOUT = Layout(
    upstream="CityscapesDataset",
    images="leftImg8bit/{split}",
    masks="gtFine/{split}",
    image_suffix="_leftImg8bit.png",
    mask_suffix="_gtFine_labelTrainIds.png",
)
VOC = Dataset(
    name="voc",
    source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    licence="Flickr terms, research",
    root="VOCdevkit/VOC2012",
    splits={split: VOC_LAYOUT.paths(split) for split in ("train", "val")},
    facts=Facts(
        counts={"train": 1_464, "val": 1_449},
        classes=21,
        gigabytes=2.0,
        files={
            "JPEGImages/2007_000032.jpg": "an image",
            "SegmentationClass/2007_000032.png": "its mask: 0 is the background, 255 no class",
        },
        known_from="the challenge's development kit of 2012; size from tensorflow/datasets, url_checksums/voc.txt",
    ),
)
ADE20K = Dataset(
    name="ade20k",
    source="http://sceneparsing.csail.mit.edu",
    licence="images: non-commercial research and education; annotations: BSD-3-Clause",
    root="ADEChallengeData2016",
    splits={split: ADE_LAYOUT.paths(split) for split in ("train", "val")},
    facts=Facts(
        counts={"train": 20_210, "val": 2_000},
        classes=150,
        gigabytes=0.97,
        files={
            "images/training/ADE_train_00000001.jpg": "an image",
            "annotations/training/ADE_train_00000001.png": "its mask: 0 for no class, class k as k + 1",
        },
        known_from="CSAILVision/sceneparsing, the challenge of 2016; the size from a public log of the download of "
        "ADEChallengeData2016.zip (967,382,037 bytes)",
    ),
)
CITYSCAPES = Dataset(
    name="cityscapes",
    source="https://www.cityscapes-dataset.com (leftImg8bit, gtFine; then cityscapesScripts' createTrainIdLabelImgs)",
    licence="Cityscapes' terms: non-commercial research",
    root="cityscapes",
    splits={split: CITYSCAPES_LAYOUT.paths(split) for split in ("train", "val")},
    facts=Facts(
        counts={"train": 2_975, "val": 500},
        classes=19,
        gigabytes=11.2,
        files={
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": "an image of 2048x1024",
            "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png": "its mask, 255: no class",
        },
        known_from="arXiv 1604.01685, Section 2",
    ),
)

UPERNET = "UPerNet with MAE's feature pyramid (arXiv 2111.06377, A.4; mmsegmentation mae-base_upernet 160k, 512x512)"
LINEAR = "linear head of DINOv2 (arXiv 2304.07193): BatchNorm and a 1x1 convolution"
MAPS = "on the four maps together, resized to the finest (DINOv2's takes the last one)"

ADE_FINETUNE = SegmentationProtocol(
    name="finetune",
    frozen=False,
    source=f"{UPERNET}. Differs: epochs (127 of ADE20K's 20,210 images for 160,000 iterations), bf16 for fp16 on CUDA, "
    "ignored pixels out of the loss's mean.",
    expected="MAE ViT-B/16, 1600 epochs: mIoU 48.1 (MAE; mmsegmentation's rerun 48.13)",
    command="python -m bench.run --backbone vit_base_patch16_224@mae_pretrain_vit_base.pth "
    "--task segmentation/ade20k --data-root DIR --gpus 8",
    epochs=127,
    batch_size=16,
    img_size=512,
    stride=341,
    lr=1e-4,
    weight_decay=0.05,
    layer_decay=0.65,
    drop_path=0.1,
    warmup_epochs=1.19,  # 1,500 iterations
    channels=768,
)
ADE_FROZEN = SegmentationProtocol(
    name="frozen",
    frozen=True,
    source=f"The {LINEAR}, {MAPS}; epochs for its 40,000 iterations.",
    expected="DINOv2 ViT-B/14 on its last map alone: mIoU 47.3 (DINOv2)",
    command="python -m bench.run --backbone vit_base_patch14_dinov2@dinov2_vitb14_pretrain.pth "
    "--task segmentation/ade20k --protocol frozen --data-root DIR --gpus 8",
    epochs=32,
    batch_size=16,
    img_size=512,
    stride=341,
    lr=1e-3,
    weight_decay=1e-4,
    warmup_epochs=1.19,
)


def with_iterations(
    protocol: SegmentationProtocol, task: str, name: str, length: str, expected: str, **changes: Any
) -> SegmentationProtocol:
    """Return ADE20K's recipe for another data set and another number of iterations."""
    command = protocol.command.replace("segmentation/ade20k", task)
    if name != protocol.name:
        command = command.replace(f" --protocol {protocol.name}", "") + f" --protocol {name}"
    source = f"{protocol.source} As on ADE20K but for {length}."
    changes |= {"name": name, "source": source, "expected": expected, "command": command}
    return dataclasses.replace(protocol, **changes)


DINOV2_LINEAR = "DINOv2 ViT-B/14 on its last map alone: mIoU {} (arXiv 2304.07193, Table 10)"
CITYSCAPES_SIZE = {"epochs": 215, "img_size": 768, "stride": 512, "warmup_epochs": 8.1}
CITYSCAPES_LENGTH = (
    "215 epochs of the 2,975 finely annotated images (40,000 iterations of 16: as many images as mmsegmentation's "
    "80,000 of 8), crops and windows of 768 pixels (its 769, in whole patches), and the warm-up's 1,500 iterations"
)
CITYSCAPES_FINETUNE, CITYSCAPES_FROZEN = (
    with_iterations(protocol, "segmentation/cityscapes", protocol.name, CITYSCAPES_LENGTH, expected, **CITYSCAPES_SIZE)
    for protocol, expected in (
        (
            ADE_FINETUNE,
            "none published with this recipe; the nearest, UPerNet on a supervised ResNet-50, 769x769: mIoU 79.39 "
            "(mmsegmentation, configs/upernet)",
        ),
        (ADE_FROZEN, DINOV2_LINEAR.format(69.4)),
    )
)
VOC_LENGTH = "437 epochs of the 1,464 training images (40,000 iterations)"
VOC_LONG = {"epochs": 437, "warmup_epochs": 16.4}
VOC_FULL = tuple(
    with_iterations(protocol, "segmentation/voc", f"{protocol.name}-full", VOC_LENGTH, expected, **VOC_LONG)
    for protocol, expected in (
        (
            ADE_FINETUNE,
            "none published on these images alone; the nearest, UPerNet on a supervised ResNet-50 with the 10,582 "
            "of 'trainaug': mIoU 76.86 (CharlesPikachu/sssegmentation)",
        ),
        (ADE_FROZEN, f"{DINOV2_LINEAR.format(82.5)}, perhaps with more training images"),
    )
)

VOC_SIZE = {"batch_size": 8, "img_size": 224, "stride": 149, "warmup_epochs": 2.0}
VOC_WHY = "a CPU and a few hundred images"
VOC_FINETUNE = ADE_FINETUNE.scaled(VOC_WHY, epochs=40, lr=2e-3, channels=64, **VOC_SIZE)
VOC_FROZEN = ADE_FROZEN.scaled(VOC_WHY, epochs=40, lr=3e-3, **VOC_SIZE)

SCENES_SIZE = {
    **{"limit": 1000, "batch_size": 8, "test_batch_size": 16},
    **{"img_size": 128, "stride": 0, "warmup_epochs": 0.1},
}
SCENES_WHY = "a minute on two cores, each image seen whole"
SCENES_FINETUNE = ADE_FINETUNE.scaled(SCENES_WHY, epochs=1, lr=1e-3, layer_decay=0.8, channels=64, **SCENES_SIZE)
SCENES_FROZEN = ADE_FROZEN.scaled(SCENES_WHY, epochs=3, lr=3e-3, **SCENES_SIZE)

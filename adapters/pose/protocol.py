"""Pose estimation's plain values: layouts, data sets and protocols. Imports no torch."""

import dataclasses
from typing import Literal

from adapters.detection.protocol import COCO as INSTANCES
from adapters.openmmlab.config import HeadProtocol
from bench.datasets.dataset import UNSTATED, Dataset, Facts
from bench.tasks import UNPUBLISHED

METRICS = ("AP", "AP50", "AP75", "AR", "PCK@0.1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images and keypoints of a data set are; `{split}` stands for the split's name there.

    Args:
        upstream: mmpose's data set class; names the keypoints, their mirror images and sigmas.
        annotations: JSON file in COCO's format.
        detections: JSON file of a detector's boxes in the tested images, in COCO's results format; "" for none.
        tested: the split of the Dataset that numbers are reported on.
        has_area: whether persons have an area; otherwise 0.53 of their box is used.
        points_may_leave: whether hidden joints may lie outside the image.
        has_crowding: whether images have a `crowdIndex`, as in CrowdPose.
    """

    upstream: str = "CocoDataset"
    num_keypoints: int = 17
    annotations: str
    images: str
    detections: str = ""
    train: str = "train"
    tested: Literal["val", "test"] = "val"
    test: str = ""
    has_area: bool = True
    points_may_leave: bool = False
    has_crowding: bool = False

    def paths(self, split: str) -> tuple[str, str]:
        """Return the annotations and the images of "train" or of the tested split."""
        name = self.train if split == "train" else self.test or self.tested
        return self.annotations.format(split=name), self.images.format(split=name)

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Return `Dataset.splits` of this layout."""
        found = {split: self.paths(split) for split in ("train", self.tested)}
        return found | ({"detections": (self.detections,)} if self.detections else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Which keypoints of another data set train those of the tested one.

    Args:
        layout: of the data set trained on.
        joints: pairs (its keypoint, or two for their midpoint; the keypoint here). Others are not trained.
    """

    layout: Layout
    joints: tuple[tuple[int | tuple[int, int], int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseProtocol(HeadProtocol):
    """AdamW, linear warm-up, then steps or a cosine; the loss is the mean squared error of heatmaps.

    Args:
        bbox_source: whose boxes are cropped at test time; training always uses the annotated ones.
        img_size, img_width: height and width of the crop in pixels; both rounded up to whole patches.
        sigma: of the target Gaussians, in heatmap pixels (one is 4 pixels of the crop).
        channels: width of the deconvolutions.
        kernel_size: of the deconvolutions, 4 or 2.
        steps: epochs after each of which the rate is divided by 10; () for a cosine to zero.
        clip_grad: largest norm of the gradient; 0 for no limit.
        rotation: largest rotation of the crop, in degrees; 60 % of the crops are rotated.
        scale: the crop is scaled by a factor of 1 - scale to 1 + scale.
        shift: largest shift, as a part of the box; 30 % of the crops are shifted.
        half_body: probability of cropping only the upper or lower half of a well visible person.
        flip_test: whether the heatmaps of the crop and of its mirror image are averaged.
        transfer: required with `train_on`.
    """

    bbox_source: Literal["ground truth", "detector"] = "ground truth"
    img_width: int
    sigma: float = 2.0
    channels: int = 256
    kernel_size: int = 4
    clip_grad: float = 0.0
    warmup_epochs: float
    steps: tuple[int, ...] = ()
    rotation: float = 80.0
    scale: float = 0.5
    shift: float = 0.16
    half_body: float = 0.3
    flip_test: bool = True
    test_batch_size: int = 32
    transfer: Transfer | None = None


SCENES_LAYOUT = Layout(annotations="annotations/person_keypoints_{split}.json", images="images/{split}")
COCO_LAYOUT = Layout(
    annotations="annotations/person_keypoints_{split}.json",
    images="{split}",
    detections="person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
    train="train2017",
    test="val2017",
)
CROWDPOSE_LAYOUT = Layout(
    upstream="CrowdPoseDataset",
    num_keypoints=14,
    annotations="annotations/mmpose_crowdpose_{split}.json",
    images="images",
    detections="annotations/det_for_crowd_test_0.1_0.5.json",
    train="trainval",
    tested="test",
    has_area=False,
    points_may_leave=True,
    has_crowding=True,
)
AP10K_LAYOUT = Layout(
    upstream="AP10KDataset", annotations="annotations/ap10k-{split}-split1.json", images="data", tested="test"
)
COCO = Dataset(
    name="coco",
    source="https://cocodataset.org (the detector's boxes: the links in mmpose's documentation)",
    licence="annotations CC BY 4.0, images Flickr terms",
    root="coco",
    splits=COCO_LAYOUT.splits(),
    facts=Facts(
        counts={"train": 118_287, "val": 5_000},
        classes=1,
        gigabytes=19.2,
        files=INSTANCES.facts.files,
        known_from="cocodataset.org; also images without a person",
    ),
)
CROWDPOSE = Dataset(
    name="crowdpose",
    source="https://github.com/Jeff-sjtu/CrowdPose, annotations in mmpose's form",
    licence=UNSTATED,
    root="crowdpose",
    splits=CROWDPOSE_LAYOUT.splits(),
    facts=Facts(
        counts={"train": 12_000, "test": 8_000},
        classes=1,
        files={"images/100000.jpg": "an image of any split"},
        known_from="Jeff-sjtu/CrowdPose: 10,000, 2,000 and 8,000; its train and val are trained on. Its README has no "
        "terms (issue 14 asks for them, unanswered) and no size",
    ),
)
AP10K = Dataset(
    name="ap10k",
    source="https://github.com/AlexTheBad/AP-10K",
    licence="CC BY 4.0 (its README; mmpose's documentation says non-commercial)",
    root="ap10k",
    splits=AP10K_LAYOUT.splits(),
    facts=Facts(
        counts={"train": 7_023, "test": 1_997},
        classes=54,
        gigabytes=3.4,
        files={"data/000000000001.jpg": "an image of any split"},
        known_from="AlexTheBad/AP-10K: 10,015 images of 54 species; split 1 of 3 from huggingface.co/datasets/tlpss/"
        "ap10k-cropped-512x512, with 995 to validate on; size of ap-10k.zip from a public guide to its download",
    ),
)

VITPOSE = "ViTPose (arXiv 2204.12484; ViT-B): 256x192, heatmaps 64x48, sigma 2, UDP, classic decoder, flip test"
PORT = (
    "Differs: augmentation as mmpose 1.3 has it (turns to 80 degrees, shifts), bf16 on CUDA, the head of stride-32 "
    "backbones has three deconvolutions."
)
SWIN = (
    "the heatmap baseline of PCT (arXiv 2303.11638; Gengzigang/PCT hmp_base), the nearest that was released to the "
    "recipe of 'Revealing the Dark Secrets of MIM'"
)
TRUE_BOXES = "Boxes are the annotated ones."

FINETUNE = PoseProtocol(
    name="finetune",
    frozen=False,
    source=f"{VITPOSE}. {PORT} {TRUE_BOXES}",
    epochs=210,
    batch_size=512,
    img_size=256,
    img_width=192,
    lr=5e-4,
    weight_decay=0.1,
    layer_decay=0.75,
    drop_path=0.3,
    clip_grad=1.0,
    warmup_epochs=1.7,  # 500 iterations on COCO
    steps=(170, 200),
)
FROZEN = dataclasses.replace(
    FINETUNE,
    name="frozen",
    frozen=True,
    source=f"The head and the training of {VITPOSE}, on a frozen backbone. {PORT} {TRUE_BOXES}",
    layer_decay=None,
    drop_path=0.0,
)
SWIN_FINETUNE = dataclasses.replace(
    FINETUNE,
    name="finetune-swin",
    source=f"For Swin and SwinV2 (base): {SWIN}. Differs: UDP for its shifted flip, no colour jitter, no GridDropout, "
    f"no norm behind the last stage, bf16 on CUDA. {TRUE_BOXES}",
    epochs=150,
    batch_size=256,
    img_width=256,
    channels=32,
    kernel_size=2,
    weight_decay=0.05,
    layer_decay=0.9,
    clip_grad=0.0,
    warmup_epochs=0.85,  # 500 iterations on COCO
    steps=(),
)

VIT_B = "vit_base_patch16_224@mae_pretrain_vit_base.pth"
SWINV2_B = "swinv2_base_window16_256@swinv2_base_simmim.pth"


def at_full_scale(task: str, p: PoseProtocol, expected: str = "none published with this recipe") -> PoseProtocol:
    """Return a recipe with its published number on a data set, and the command to reproduce it."""
    backbone = SWINV2_B if "swin" in p.name else VIT_B
    run = f"python -m bench.run --backbone {backbone} --task {task} --protocol {p.name}"
    return dataclasses.replace(p, expected=expected, command=f"{run} --data-root DIR --gpus 8")


def with_detector(p: PoseProtocol, boxes: str) -> PoseProtocol:
    """Return the same recipe tested on a detector's boxes, as published numbers are."""
    source = p.source.replace(TRUE_BOXES, f"Boxes are {boxes}.")
    return dataclasses.replace(p, name=f"{p.name}-detector", bbox_source="detector", source=source)


COCO_BOXES = "a person detector's of AP 56.4 on COCO val (COCO_val2017_detections_AP_H_56_person.json)"
CROWDPOSE_BOXES = (
    "the YOLOv3 ones that mmpose hands out (det_for_crowd_test_0.1_0.5.json); which ones the published number took is "
    "not known"
)
VITPOSE_B = "MAE ViT-B/16: AP 75.8, AR 81.1 on val (ViTPose)"
TEST_DEV = "SimMIM SwinV2-B: AP 76.7 on test-dev, which a server scores (Dark Secrets)"
ON_TRUE_BOXES = "none published on annotated boxes; on a detector's"

COCO_FINETUNE = at_full_scale("pose/coco", FINETUNE, f"{ON_TRUE_BOXES} {VITPOSE_B}")
COCO_FROZEN = at_full_scale("pose/coco", FROZEN)
COCO_FULL = (
    COCO_FINETUNE,
    COCO_FROZEN,
    at_full_scale("pose/coco", with_detector(FINETUNE, COCO_BOXES), VITPOSE_B),
    at_full_scale("pose/coco", SWIN_FINETUNE, f"{ON_TRUE_BOXES} {TEST_DEV}"),
    at_full_scale("pose/coco", with_detector(SWIN_FINETUNE, COCO_BOXES), f"none published on val; {TEST_DEV}"),
)
CROWDPOSE_FULL = (
    *(at_full_scale("pose/crowdpose", p) for p in (FINETUNE, FROZEN, SWIN_FINETUNE)),
    at_full_scale(
        "pose/crowdpose", with_detector(SWIN_FINETUNE, CROWDPOSE_BOXES), "SimMIM SwinV2-B: AP 74.9 (Dark Secrets)"
    ),
)
AP10K_NEAREST = "none published with this recipe; the nearest, HRNet-W32 fine-tuned at 256x256: AP 72.2 (mmpose)"
AP10K_FULL = tuple(at_full_scale("pose/ap10k", p, AP10K_NEAREST) for p in (FINETUNE, FROZEN))

SMALL_SIZE = {
    **{"batch_size": 4, "img_size": 128, "img_width": 96, "channels": 64},
    **{"warmup_epochs": 1.0, "steps": ()},
    **{"rotation": 30.0, "scale": 0.25, "shift": 0.0, "half_body": 0.0},
}
SMALL_WHY = "some minutes of a CPU and a hundred persons"
SMALL_FINETUNE = COCO_FINETUNE.scaled(SMALL_WHY, name="finetune-small", epochs=30, lr=1e-3, drop_path=0.1, **SMALL_SIZE)
SMALL_FROZEN = COCO_FROZEN.scaled(SMALL_WHY, name="frozen-small", epochs=60, lr=2e-3, **SMALL_SIZE)

SCENES_SIZE = {
    **{"limit": 1000, "batch_size": 8, "img_size": 96, "img_width": 96, "channels": 64},
    **{"epochs": 2, "lr": 4e-3, "warmup_epochs": 0.1, "steps": ()},
    **{"rotation": 0.0, "scale": 0.15, "shift": 0.0, "half_body": 0.0},
}
SCENES_WHY = "half a minute on two cores"
SCENES_FINETUNE = COCO_FINETUNE.scaled(SCENES_WHY, layer_decay=0.9, drop_path=0.0, **SCENES_SIZE)
SCENES_FROZEN = COCO_FROZEN.scaled(SCENES_WHY, **SCENES_SIZE)


def from_coco(joints: tuple[tuple[int | tuple[int, int], int], ...], untrained: str) -> PoseProtocol:
    """Return a protocol that trains on COCO's persons, for a data set of which only the test split is available."""
    return dataclasses.replace(
        SMALL_FINETUNE,
        name="from-coco",
        expected=UNPUBLISHED,
        command="",
        source=f"{SMALL_FINETUNE.source} Trained on COCO's train split for 12 epochs; the neck is the midpoint of the "
        f"shoulders; no joint of COCO stands for {untrained}, which is never trained but is scored.",
        epochs=12,
        train_on=COCO,
        transfer=Transfer(layout=COCO_LAYOUT, joints=joints),
    )


NECK = (5, 6)  # COCO's shoulders
# Shoulders, elbows, wrists, hips, knees, ankles are COCO's keypoints 5 to 16, in CrowdPose's order.
CROWDPOSE_FROM_COCO = from_coco((*((source, source - 5) for source in range(5, 17)), (NECK, 13)), "the top of the head")
# Eyes, nose, neck; forelegs are arms: left, right; hind legs are legs: left, right.
AP10K_FROM_COCO = from_coco(
    (
        *((1, 0), (2, 1), (0, 2), (NECK, 3)),
        *((5, 5), (7, 6), (9, 7), (6, 8), (8, 9), (10, 10)),
        *((11, 11), (13, 12), (15, 13), (12, 14), (14, 15), (16, 16)),
    ),
    "the root of the tail",
)

"""Top-down pose estimation with mmpose: keypoint heatmaps of one person's box at a time.

    python -m bench.run --backbone test_vit --task pose
    python -m bench.run --backbone arch@weights --task pose/coco --protocol finetune-small --data-root DIR

The last map of the backbone is deconvolved to heatmaps of a quarter of the input: twice from stride
16 (ViTPose's classic decoder), three times from 32. Where boxes come from is part of the protocol
(`bbox_source`). Reported are the last epoch's AP family over object keypoint similarity, and PCK.
Expected at full scale (`pose/coco`, `finetune-detector`): MAE ViT-B/16, 75.8 AP.
"""

import dataclasses
import functools
from pathlib import Path

from adapters.pose import protocol
from adapters.pose.config import upstream
from adapters.pose.protocol import Layout, PoseProtocol, Transfer
from bench.datasets.dataset import UNSTATED, Dataset, EmbeddedWorld
from bench.datasets.items import Items
from bench.tasks import UNPUBLISHED, Job, Metric, Outcome, Task

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
    """A recipe on a data set: the published number, and the command that would reproduce it."""
    backbone = SWINV2_B if "swin" in p.name else VIT_B
    run = f"python -m bench.run --backbone {backbone} --task {task} --protocol {p.name}"
    return dataclasses.replace(p, expected=expected, command=f"{run} --data-root DIR --gpus 8")


def with_detector(p: PoseProtocol, boxes: str) -> PoseProtocol:
    """The same recipe, tested on a detector's boxes, as published numbers are."""
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


def task(dataset: Dataset, layout: Layout, protocols: tuple[PoseProtocol, ...], version: int = 1) -> Task:
    """Make `pose/<dataset>`; the way to add a data set of one's own."""
    return Task(
        name=f"pose/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=tuple(dataclasses.replace(p, splits=_read(p, layout)) for p in protocols),
        metrics=tuple(Metric(name=name) for name in ("AP", "AP50", "AP75", "AR", "PCK@0.1")),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.pose.train",),
        items=functools.partial(items, layout=layout),
    )


def _read(p: PoseProtocol, layout: Layout) -> tuple[str, ...]:
    """The splits that a protocol reads of the task's own data set."""
    train = () if p.train_on else ("train",)
    return (*train, layout.tested, *(("detections",) if p.bbox_source == "detector" else ()))


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test once; raises UserError for images, keypoints or boxes that cannot be used."""
    from adapters.pose import train as pose_estimators

    return pose_estimators.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items | None:
    """What a split holds, to be checked and looked at."""
    from adapters.openmmlab import coco

    if split == "detections":
        return None
    annotations, images = layout.paths(split)
    return coco.items(
        folder / annotations,
        folder / images,
        num_keypoints=layout.num_keypoints,
        points_may_leave=layout.points_may_leave,
    )


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
    facts=protocol.COCO_PERSONS_FACTS,
)
CROWDPOSE = Dataset(
    name="crowdpose",
    source="https://github.com/Jeff-sjtu/CrowdPose, annotations in mmpose's form",
    licence=UNSTATED,
    root="crowdpose",
    splits=CROWDPOSE_LAYOUT.splits(),
    facts=protocol.CROWDPOSE_FACTS,
)
AP10K = Dataset(
    name="ap10k",
    source="https://github.com/AlexTheBad/AP-10K",
    licence="CC BY 4.0 (its README; mmpose's documentation says non-commercial)",
    root="ap10k",
    splits=AP10K_LAYOUT.splits(),
    facts=protocol.AP10K_FACTS,
)


def from_coco(joints: tuple[tuple[int | tuple[int, int], int], ...], untrained: str) -> PoseProtocol:
    """Train on COCO's persons, test on other joints: for a data set of which only a test split is there."""
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

TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (*COCO_FULL, SMALL_FINETUNE, SMALL_FROZEN)),
    task(CROWDPOSE, CROWDPOSE_LAYOUT, (*CROWDPOSE_FULL, CROWDPOSE_FROM_COCO)),
    task(AP10K, AP10K_LAYOUT, (*AP10K_FULL, AP10K_FROM_COCO)),
)

"""Top-down pose estimation with mmpose: keypoint heatmaps of one person's box at a time.

    python -m bench.run --backbone test_vit --task pose
    python -m bench.run --backbone arch@weights --task pose/coco --protocol finetune-small --data-root DIR

Deconvolutions turn the backbone's last map into heatmaps of a quarter of the input: two from stride 16
(ViTPose's classic decoder), three from 32. Where boxes come from is part of the protocol (`bbox_source`).
Reported are AP and AR over object keypoint similarity, and PCK, of the last epoch.
Expected at full scale (`pose/coco`, `finetune-detector`): MAE ViT-B/16, 75.8 AP.
"""

# ruff: noqa: F403, F405  users' entries import every name of `protocol` from here
import dataclasses

from adapters.openmmlab.config import head_task
from adapters.pose.config import upstream
from adapters.pose.protocol import *
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.tasks import Metric, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[PoseProtocol, ...], version: int = 1) -> Task:
    """Return the task `pose/<dataset>`; call it to add your own data set."""
    return head_task(
        "pose",
        dataset,
        layout,
        version=version,
        protocols=tuple(dataclasses.replace(p, splits=_splits(p, layout)) for p in protocols),
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=upstream,
    )


def _splits(p: PoseProtocol, layout: Layout) -> tuple[str, ...]:
    """Return the splits of the task's own data set that a protocol reads."""
    train = () if p.train_on else ("train",)
    return (*train, layout.tested, *(("detections",) if p.bbox_source == "detector" else ()))


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (*COCO_FULL, SMALL_FINETUNE, SMALL_FROZEN)),
    task(CROWDPOSE, CROWDPOSE_LAYOUT, (*CROWDPOSE_FULL, CROWDPOSE_FROM_COCO)),
    task(AP10K, AP10K_LAYOUT, (*AP10K_FULL, AP10K_FROM_COCO)),
)

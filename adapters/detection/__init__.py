"""Detection and instance segmentation with mmdetection: Mask R-CNN, fine-tuned or on a frozen backbone.

    python -m bench.run --backbone test_vit --task detection
    python -m bench.run --backbone arch@weights --task detection/coco --data-root DIR

A plain ViT has ViTDet's simple feature pyramid, and window attention with a few global blocks where the
protocol has a window_size; a hierarchical backbone has an FPN. The heads are the same. Reported are box and
mask AP, AP50, AP75, AP by size and every class's AP on val, of the last epoch. The record contains the loss
curves of rpn, cls, bbox and mask. Expected at full scale
(`detection/coco`): MAE ViT-B/16, box AP 51.6, mask AP 45.9.
"""

# ruff: noqa: F403, F405  users' entries import every name of `protocol` from here
from adapters.detection.config import upstream
from adapters.detection.protocol import *
from adapters.openmmlab.config import head_task
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.tasks import Metric, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[DetectionProtocol, ...], version: int = 1) -> Task:
    """Return the task `detection/<dataset>`; call it to add your own data set."""
    return head_task(
        "detection",
        dataset,
        layout,
        version=version,
        protocols=protocols,
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=upstream,
    )


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (COCO_FINETUNE, COCO_FROZEN, COCO_FINETUNE_SMALL, COCO_FROZEN_SMALL)),
)

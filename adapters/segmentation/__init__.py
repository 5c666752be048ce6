"""Semantic segmentation with mmsegmentation: UPerNet fine-tuned, or a linear head on frozen maps.

    python -m bench.run --backbone test_vit --task segmentation
    python -m bench.run --backbone arch@weights --task segmentation/voc --data-root DIR

A plain ViT's four maps become a pyramid first (x4, x2, x1, x0.5, as in MAE); the four stages of a
hierarchical backbone are one already. Reported are mIoU, mAcc, aAcc and every class's IoU on val,
of the last epoch. Expected at full scale (`segmentation/ade20k`): MAE ViT-B/16, 1600 epochs, 48.1 mIoU.
"""

# ruff: noqa: F403, F405  users' entries import every name of `protocol` from here
from adapters.openmmlab.config import head_task
from adapters.segmentation.config import upstream
from adapters.segmentation.protocol import *
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.tasks import Metric, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[SegmentationProtocol, ...], version: int = 1) -> Task:
    """Return the task `segmentation/<dataset>`; call it to add your own data set."""
    return head_task(
        "segmentation",
        dataset,
        layout,
        version=version,
        protocols=protocols,
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=upstream,
    )


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(VOC, VOC_LAYOUT, (VOC_FINETUNE, VOC_FROZEN, *VOC_FULL)),
    task(ADE20K, ADE_LAYOUT, (ADE_FINETUNE, ADE_FROZEN)),
    task(CITYSCAPES, CITYSCAPES_LAYOUT, (CITYSCAPES_FINETUNE, CITYSCAPES_FROZEN)),
)

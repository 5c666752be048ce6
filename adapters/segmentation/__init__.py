"""Semantic segmentation with mmsegmentation: UPerNet fine-tuned, or a linear head on frozen maps.

    python -m bench.run --backbone test_vit --task segmentation
    python -m bench.run --backbone arch@weights --task segmentation/voc --data-root DIR

A plain ViT's four maps become a pyramid first (x4, x2, x1, x0.5, as in MAE); the four stages of a
hierarchical backbone are one already. Reported are mIoU, mAcc, aAcc and every class's IoU on val,
of the last epoch. Expected at full scale (`segmentation/ade20k`): MAE ViT-B/16, 1600 epochs, 48.1 mIoU.
"""

import functools
from pathlib import Path

from adapters.segmentation.config import upstream
from adapters.segmentation.protocol import (
    ADE20K,
    ADE_FINETUNE,
    ADE_FROZEN,
    ADE_LAYOUT,
    CITYSCAPES,
    CITYSCAPES_FINETUNE,
    CITYSCAPES_FROZEN,
    CITYSCAPES_LAYOUT,
    METRICS,
    SCENES_FINETUNE,
    SCENES_FROZEN,
    SCENES_LAYOUT,
    VOC,
    VOC_FINETUNE,
    VOC_FROZEN,
    VOC_FULL,
    VOC_LAYOUT,
    Layout,
    SegmentationProtocol,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Metric, Outcome, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[SegmentationProtocol, ...], version: int = 1) -> Task:
    """Return the task `segmentation/<dataset>`; call it to add your own data set."""
    return Task(
        name=f"segmentation/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.segmentation.train",),
        items=functools.partial(items, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test on val. Raises UserError for an unusable image or mask."""
    from adapters.segmentation import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return a split's images with their masks, for `python -m bench.datasets`."""
    from adapters.segmentation import data

    return data.items(folder, split, layout)


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(VOC, VOC_LAYOUT, (VOC_FINETUNE, VOC_FROZEN, *VOC_FULL)),
    task(ADE20K, ADE_LAYOUT, (ADE_FINETUNE, ADE_FROZEN)),
    task(CITYSCAPES, CITYSCAPES_LAYOUT, (CITYSCAPES_FINETUNE, CITYSCAPES_FROZEN)),
)

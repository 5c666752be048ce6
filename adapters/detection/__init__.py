"""Detection and instance segmentation with mmdetection: Mask R-CNN, fine-tuned or on a frozen backbone.

    python -m bench.run --backbone test_vit --task detection
    python -m bench.run --backbone arch@weights --task detection/coco --data-root DIR

A plain ViT has ViTDet's simple feature pyramid, and window attention with a few global blocks where the
protocol has a window_size; a hierarchical backbone has an FPN. The heads are the same. Reported are box and
mask AP, AP50, AP75, AP by size and every class's AP on val, of the last epoch. The record contains the loss
curves of rpn, cls, bbox and mask. Expected at full scale
(`detection/coco`): MAE ViT-B/16, box AP 51.6, mask AP 45.9.
"""

import functools
from pathlib import Path

from adapters.detection.config import upstream
from adapters.detection.protocol import (
    COCO,
    COCO_FINETUNE,
    COCO_FINETUNE_SMALL,
    COCO_FROZEN,
    COCO_FROZEN_SMALL,
    COCO_LAYOUT,
    METRICS,
    SCENES_FINETUNE,
    SCENES_FROZEN,
    SCENES_LAYOUT,
    DetectionProtocol,
    Layout,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Metric, Outcome, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[DetectionProtocol, ...], version: int = 1) -> Task:
    """Return the task `detection/<dataset>`; call it to add your own data set."""
    return Task(
        name=f"detection/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.detection.train",),
        items=functools.partial(items, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test on val. Raises UserError for unusable annotations."""
    from adapters.detection import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return a split's images with their boxes and outlines, for `python -m bench.datasets`."""
    from adapters.openmmlab import coco

    annotations, images = layout.paths(split)
    return coco.items(folder / annotations, folder / images)


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (COCO_FINETUNE, COCO_FROZEN, COCO_FINETUNE_SMALL, COCO_FROZEN_SMALL)),
)

"""Top-down pose estimation with mmpose: keypoint heatmaps of one person's box at a time.

    python -m bench.run --backbone test_vit --task pose
    python -m bench.run --backbone arch@weights --task pose/coco --protocol finetune-small --data-root DIR

Deconvolutions turn the backbone's last map into heatmaps of a quarter of the input: two from stride 16
(ViTPose's classic decoder), three from 32. Where boxes come from is part of the protocol (`bbox_source`).
Reported are AP and AR over object keypoint similarity, and PCK, of the last epoch.
Expected at full scale (`pose/coco`, `finetune-detector`): MAE ViT-B/16, 75.8 AP.
"""

import dataclasses
import functools
from pathlib import Path

from adapters.pose.config import upstream
from adapters.pose.protocol import (  # noqa: F401  re-exported for users' entries
    AP10K,
    AP10K_FROM_COCO,
    AP10K_FULL,
    AP10K_LAYOUT,
    COCO,
    COCO_FINETUNE,
    COCO_FROZEN,
    COCO_FULL,
    COCO_LAYOUT,
    CROWDPOSE,
    CROWDPOSE_FROM_COCO,
    CROWDPOSE_FULL,
    CROWDPOSE_LAYOUT,
    FINETUNE,
    FROZEN,
    METRICS,
    SCENES_FINETUNE,
    SCENES_FROZEN,
    SCENES_LAYOUT,
    SMALL_FINETUNE,
    SMALL_FROZEN,
    SWIN_FINETUNE,
    Layout,
    PoseProtocol,
    Transfer,
    from_coco,
    with_detector,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Metric, Outcome, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[PoseProtocol, ...], version: int = 1) -> Task:
    """Return the task `pose/<dataset>`; call it to add your own data set."""
    return Task(
        name=f"pose/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=tuple(dataclasses.replace(p, splits=_splits(p, layout)) for p in protocols),
        metrics=tuple(Metric(name=name) for name in METRICS),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.pose.train",),
        items=functools.partial(items, layout=layout),
    )


def _splits(p: PoseProtocol, layout: Layout) -> tuple[str, ...]:
    """Return the splits of the task's own data set that a protocol reads."""
    train = () if p.train_on else ("train",)
    return (*train, layout.tested, *(("detections",) if p.bbox_source == "detector" else ()))


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test once. Raises UserError for unusable images, keypoints or boxes."""
    from adapters.pose import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items | None:
    """Return a split's images with their poses, for `python -m bench.datasets`; None for a detector's boxes."""
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


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN)),
    task(COCO, COCO_LAYOUT, (*COCO_FULL, SMALL_FINETUNE, SMALL_FROZEN)),
    task(CROWDPOSE, CROWDPOSE_LAYOUT, (*CROWDPOSE_FULL, CROWDPOSE_FROM_COCO)),
    task(AP10K, AP10K_LAYOUT, (*AP10K_FULL, AP10K_FROM_COCO)),
)

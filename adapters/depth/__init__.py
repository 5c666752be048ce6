"""Monocular depth with mmsegmentation: a deconvolution head fine-tuned, or linear heads on frozen maps.

    python -m bench.run --backbone test_vit --task depth
    python -m bench.run --backbone arch@weights --task depth/nyu --data-root DIR

Reported are RMSE (the primary metric, in metres), other errors, and the accuracies delta1 to delta3 as
fractions of 1: per image, over its pixels of known depth, then averaged. Expected at full
scale: SwinV2-B after SimMIM, RMSE 0.304 on `depth/nyu` and 2.050 on `depth/kitti`.
"""

import functools
from pathlib import Path

from adapters.depth.config import upstream
from adapters.depth.protocol import (  # noqa: F401  re-exported for users' entries
    EIGEN,
    FINETUNE,
    FOLDER,
    FOLDER_FINETUNE,
    FOLDER_FROZEN,
    FOLDER_LAYOUT,
    FROM_HOLOLENS,
    FROM_SCENES,
    FROZEN,
    GARG,
    HOLOLENS,
    KITTI,
    KITTI_LAYOUT,
    KITTI_PROTOCOLS,
    LIN4,
    METRICS,
    NYU,
    NYU_LAYOUT,
    NYU_PROTOCOLS,
    SCENES_FINETUNE,
    SCENES_FROZEN,
    SCENES_LAYOUT,
    UPSTREAM,
    DepthProtocol,
    Layout,
    linear,
    transfer,
)
from bench.datasets.dataset import Dataset, EmbeddedWorld, Items
from bench.tasks import Job, Metric, Outcome, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[DepthProtocol, ...], version: int = 1) -> Task:
    """Return the task `depth/<dataset>`; call it to add your own data set."""
    return Task(
        name=f"depth/{dataset.name}",
        version=version,
        dataset=dataset,
        protocols=protocols,
        metrics=tuple(Metric(name=m, higher_is_better=m.startswith("delta")) for m in METRICS),
        upstream=functools.partial(upstream, layout=layout),
        evaluate=functools.partial(evaluate, layout=layout),
        imports=("adapters.depth.train",),
        items=functools.partial(items, layout=layout),
    )


def evaluate(job: Job, layout: Layout) -> Outcome:
    """Check the data, train, test once. Raises UserError for an unusable image or depth map."""
    from adapters.depth import train

    return train.evaluate(job, layout)


def items(folder: Path, split: str, layout: Layout) -> Items:
    """Return a split's images with their depth, for `python -m bench.datasets`."""
    from adapters.depth import data

    return data.items(folder, split, layout)


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN, linear(SCENES_FROZEN))),
    task(NYU, NYU_LAYOUT, (*NYU_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=43), FROM_HOLOLENS)),
    task(KITTI, KITTI_LAYOUT, (*KITTI_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=21))),
    task(FOLDER, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
    task(HOLOLENS, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
)

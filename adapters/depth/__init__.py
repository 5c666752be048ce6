"""Monocular depth with mmsegmentation: a deconvolution head fine-tuned, or linear heads on frozen maps.

    python -m bench.run --backbone test_vit --task depth
    python -m bench.run --backbone arch@weights --task depth/nyu --data-root DIR

Reported are RMSE (the primary metric, in metres), other errors, and the accuracies delta1 to delta3 as
fractions of 1: per image, over its pixels of known depth, then averaged. Expected at full
scale: SwinV2-B after SimMIM, RMSE 0.304 on `depth/nyu` and 2.050 on `depth/kitti`.
"""

# ruff: noqa: F403, F405  users' entries import every name of `protocol` from here
from adapters.depth.config import upstream
from adapters.depth.protocol import *
from adapters.openmmlab.config import head_task
from bench.datasets.dataset import Dataset, EmbeddedWorld
from bench.tasks import Metric, Task


def task(dataset: Dataset, layout: Layout, protocols: tuple[DepthProtocol, ...], version: int = 1) -> Task:
    """Return the task `depth/<dataset>`; call it to add your own data set."""
    return head_task(
        "depth",
        dataset,
        layout,
        version=version,
        protocols=protocols,
        metrics=tuple(Metric(name=m, higher_is_better=m.startswith("delta")) for m in METRICS),
        upstream=upstream,
    )


TASKS = (
    task(EmbeddedWorld(), SCENES_LAYOUT, (SCENES_FINETUNE, SCENES_FROZEN, linear(SCENES_FROZEN))),
    task(NYU, NYU_LAYOUT, (*NYU_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=43), FROM_HOLOLENS)),
    task(KITTI, KITTI_LAYOUT, (*KITTI_PROTOCOLS, transfer(SCENES_FINETUNE, *FROM_SCENES, stride=21))),
    task(FOLDER, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
    task(HOLOLENS, FOLDER_LAYOUT, (FOLDER_FINETUNE, FOLDER_FROZEN, linear(FOLDER_FROZEN))),
)

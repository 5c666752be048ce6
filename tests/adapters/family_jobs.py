"""Tiny jobs of the five families that train through OpenMMLab, shared by their tests."""

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from adapters import depth, detection, pose, segmentation, tracking
from adapters.openmmlab import runner
from bench.backbones.backbone import Backbone
from bench.tasks import Job

FAMILIES = {"segmentation": segmentation, "detection": detection, "pose": pose, "depth": depth, "tracking": tracking}
BY_NAME = {task.name: task for family in FAMILIES.values() for task in family.TASKS}
SMALL: dict[str, dict[str, Any]] = {
    "segmentation": {"test_batch_size": 1},
    "detection": {"channels": 16, "head_convs": 1, "proposals": 20, "rois": 16, "test_batch_size": 1},
    "pose": {"limit": 3, "img_width": 48},
    "depth": {"stride": 16, "test_batch_size": 1},
    "tracking": {"template_size": 32, "pairs": 4, "backbone_lr": 1.0},
}


def job(family: str, folder: Path, arch: str, protocol: str, name: str = "scenes", **changes: Any) -> Job:
    """One epoch at 64 pixels on the CPU; what it writes is next to the data's folder."""
    task = BY_NAME[f"{family}/{name}"]
    small = {"epochs": 1, "batch_size": 2, "limit": None, "img_size": 64, **SMALL[family]}
    return Job(
        backbone=Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **{**small, **changes}),
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def bind(work: Job) -> dict[str, Any]:
    """The family's config with the data, as in `Task.evaluate`."""
    layout = getattr(work.task.evaluate, "keywords", {})  # tracking has none
    config: dict[str, Any] = importlib.import_module(work.task.imports[0]).bind(work, **layout)
    return config


def build(work: Job, **settings: Any) -> runner.JobRunner:
    """The runner that `Task.evaluate` would start; `settings` are `runner.bind`'s."""
    return runner.JobRunner.from_cfg(runner.bind(bind(work), work, **settings))


def rates(built: runner.JobRunner) -> list[float]:
    """The highest learning rate of every iteration, without training."""
    built.optim_wrapper = built.build_optim_wrapper(built.cfg.optim_wrapper)
    schedulers = built.build_param_scheduler(built.cfg.param_scheduler)
    assert not any(scheduler.by_epoch for scheduler in schedulers)
    found = []
    for _ in range(built.max_epochs * len(built.train_loop.dataloader)):
        found.append(max(built.optim_wrapper.get_lr()["lr"]))
        built.optim_wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def real_data(folder: str) -> Path:
    """The folder of the real data sets; skips the test if `folder` is not in it."""
    root = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[3] / "shared/data"))
    if not (root / folder).is_dir():
        pytest.skip(f"no real images: {root / folder} does not exist (set BENCH_DATA)")
    return root

"""Small data sets of images and depth, and jobs on them, shared by the tests of depth."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.depth import TASKS, Layout
from adapters.openmmlab import depth_estimators, runner
from bench.backbones import Backbone
from bench.tasks import Job

BY_NAME = {task.name: task for task in TASKS}
SMALL = {"epochs": 1, "batch_size": 2, "limit": None, "img_size": 64, "stride": 16}


def write_pair(image: Path, depth: Path, seed: int, size: tuple[int, int], scale: float) -> None:
    """Brightness falls with depth, which grows from column to column by a random step; 0 at the top."""
    rng = np.random.default_rng(seed)
    metres = np.broadcast_to(1 + np.cumsum(rng.random(size[1]) * 14 / size[1]), size)
    pixels = np.repeat(255 - 25 * metres[..., None], 3, -1) + rng.integers(-3, 3, (*size, 3))
    stored = np.rint(metres * scale).astype(np.uint16)
    stored[: size[0] // 8] = 0
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(image)
    Image.fromarray(stored).save(depth)


def write(folder: Path, layout: Layout, train: int, test: int, size: tuple[int, int]) -> Path:
    for split, count in ((layout.train, train), (layout.test, test)):
        for i in range(count):
            image = folder / layout.images.format(split=split) / f"{i:06}.png"
            target = folder / layout.depths.format(split=split) / f"{i:06}.png"
            write_pair(image, target, i, size, layout.scale)
    return folder


def job(folder: Path, arch: str, protocol: str, name: str = "scenes", **changes: Any) -> Job:
    task = BY_NAME[f"depth/{name}"]
    changed = {**SMALL, "test_batch_size": 1, **changes}
    return Job(
        backbone=Backbone(name=arch, arch=arch),
        task=task,
        protocol=dataclasses.replace(task.protocol(protocol), **changed),
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def layout_of(work: Job) -> Layout:
    layout: Layout = work.task.evaluate.keywords["layout"]  # type: ignore[attr-defined]
    return layout


def build(work: Job) -> runner.JobRunner:
    bound = depth_estimators.bind(work, layout_of(work))
    return runner.JobRunner.from_cfg(runner.bind(bound, work))

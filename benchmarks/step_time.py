"""What the harness adds to a training step: its Runner beside mmengine's own, on the same Config.

    make bench

Both train the same model on the same images of the embedded world, in one process on one thread,
taking turns step by step, loading included. Given are the median of a step on either side, and the
median ratio of neighbouring steps with its 95 % bootstrap interval.
"""

import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from adapters.openmmlab import runner  # first: it readies the process for OpenMMLab  # isort: skip

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from bench import tasks
from bench.backbones import Backbone
from bench.tasks import Job, Task

ARCH, STEPS, WARMUP = "test_vit", 150, 10
SIDES = ("harness", "mmengine")
HARNESS_ONLY = ("custom_hooks", "default_hooks", "resume", "load_from")


class Enough(Exception):
    """Ends a training that is timed."""


class Turns:
    """Hands the one processor to and fro between two threads."""

    def __init__(self) -> None:
        """Begin with the harness."""
        self.whose, self.changed = SIDES[0], threading.Condition()
        self.seconds: dict[str, list[float]] = {side: [] for side in SIDES}

    def wait(self, side: str) -> float:
        """Return the time at which it is this side's turn."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.whose == side, timeout=60)
        return time.perf_counter()

    def pass_on(self, side: str) -> None:
        """Let the other side take the next step."""
        with self.changed:
            self.whose = SIDES[1 - SIDES.index(side)]
            self.changed.notify_all()


TURNS = Turns()


@HOOKS.register_module()
class TurnHook(Hook):
    """Times a step from one turn to the next: fetching a batch, the step, and every other hook."""

    priority = "LOWEST"

    def __init__(self, side: str) -> None:
        """Time this side's steps."""
        self.side = side

    def before_train_epoch(self, runner: Any) -> None:
        """Wait for the first turn."""
        if runner.epoch == 0:
            self.start = TURNS.wait(self.side)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Note the time, and wait for the next turn."""
        TURNS.seconds[self.side].append(time.perf_counter() - self.start)
        TURNS.pass_on(self.side)
        if len(TURNS.seconds[self.side]) == STEPS:
            raise Enough
        self.start = TURNS.wait(self.side)


def job_of(task: Task, folder: Path) -> Job:
    """The task's fine-tuning as `bench.run` would start it, but for ever and without workers."""
    protocol = dataclasses.replace(task.protocols[0], epochs=1000)
    data = task.dataset.locate(None)
    return Job(
        backbone=Backbone(name=ARCH, arch=ARCH),
        task=task,
        protocol=protocol,
        seed=0,
        data=data,
        train_data=data,
        work_dir=folder / "harness",
        cache=folder,
        device="cpu",
        num_workers=0,
    )


def config_of(job: Job) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The config that a family hands to the harness's runner, and its further arguments."""
    with mock.patch.object(runner, "run", side_effect=Enough) as run:
        try:
            job.task.evaluate(job)
        except Enough:
            return run.call_args.args[0], run.call_args.kwargs
    raise AssertionError(f"{job.task.name} did not come to its runner")


def harness(job: Job, config: Mapping[str, Any], curves: Mapping[str, Any]) -> Callable[[], Any]:
    """Our Runner with everything that it does to a training."""
    bound = runner.bind(config, job, curves=curves)
    bound.custom_hooks.append({"type": "TurnHook", "side": "harness"})
    return runner.JobRunner.from_cfg(bound).train


def mmengine(job: Job, config: Mapping[str, Any]) -> Callable[[], Any]:
    """mmengine's Runner and default hooks on the same model, images and optimizer."""
    bound = runner.bind(config, job).to_dict()
    for key in HARNESS_ONLY:
        del bound[key]
    loader = bound["train_dataloader"]
    loader["dataset"] = loader["dataset"]["dataset"]
    loader["sampler"] = {"type": "DefaultSampler", "shuffle": True}
    bound |= {
        "work_dir": str(job.work_dir.parent / "mmengine"),
        "experiment_name": f"bare {job.task.family}",
        "custom_hooks": [{"type": "TurnHook", "side": "mmengine"}],
        "log_level": "ERROR",
    }
    return Runner.from_cfg(Config(bound)).train


def train(start: Callable[[], Any]) -> None:
    """Train in this thread until `Enough`."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        try:
            start()
        except Enough:
            return


def measure(task: Task) -> str:
    """One row of the table."""
    TURNS.__init__()
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(task, Path(folder))
        config, settings = config_of(job)
        starts = [harness(job, config, settings.get("curves") or {}), mmengine(job, config)]
        threads = [threading.Thread(target=train, args=(start,)) for start in starts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ours, bare = (np.array(TURNS.seconds[side])[WARMUP:] for side in SIDES)
    ratios = ours / bare
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return (
        f"{task.name:24} {1000 * np.median(ours):9.1f} {1000 * np.median(bare):9.1f} "
        f"{100 * (np.median(ratios) - 1):+7.1f} %  ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
    )


def main() -> None:
    """Print a row for every family that trains on mmengine."""
    torch.set_num_threads(1)
    sys.stdout.write(f"{'one step, ms':24} {'harness':>9} {'mmengine':>9} {'more':>9}  (95 %)\n")
    for task in tasks.find(["all"]):
        sys.stdout.write(f"{measure(task)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

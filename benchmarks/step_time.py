"""What the harness adds to a training step: its Runner beside mmengine's own, on the same Config.

    make bench

Both train the same model on the same images of the embedded world, in one process a round, on one thread,
each with a worker that loads, as a run on two cores has; they take turns step by step. Given are the
median of a step on either side; the median ratio of neighbouring steps, of the middle round and the
range over the rounds, which differ in seed, in which side is made and which begins first (memory lies
accordingly, which moves a model by up to a tenth); and what of the difference lies
outside the model's own `train_step`: in loops, hooks, seeding and the loader. How a process's memory
happens to lie moves the model's part, which is the same code on both sides, by percents either way.
"""

import contextlib
import dataclasses
import json
import subprocess
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
from bench.backbones.backbone import Backbone
from bench.tasks import Job, Task

ARCH, STEPS, WARMUP, ROUNDS = "test_vit", 60, 10, 8
SIDES = ("harness", "mmengine")
HARNESS_ONLY = ("custom_hooks", "default_hooks", "resume", "load_from")


class Enough(Exception):
    """Ends a training that is timed."""


class Turns:
    """Hands the one processor to and fro between two threads."""

    def __init__(self, first: str = SIDES[0]) -> None:
        """Begin with one side."""
        self.whose, self.changed = first, threading.Condition()
        self.seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        self.model: dict[str, list[float]] = {side: [] for side in SIDES}

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
            runner.model.train_step = self.timed(runner.model.train_step)
            self.start = TURNS.wait(self.side)

    def timed(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        """Note how long the model's own part takes."""

        def step(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            losses = train_step(*args, **kwargs)
            TURNS.model[self.side].append(time.perf_counter() - start)
            return losses

        return step

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Note the time, and wait for the next turn."""
        TURNS.seconds[self.side].append(time.perf_counter() - self.start)
        TURNS.pass_on(self.side)
        if len(TURNS.seconds[self.side]) == STEPS:
            raise Enough
        self.start = TURNS.wait(self.side)


def job_of(task: Task, folder: Path, seed: int) -> Job:
    """The task's fine-tuning as `bench.run` would start it, but for ever."""
    protocol = dataclasses.replace(task.protocols[0], epochs=1000)
    data = task.dataset.locate(None)
    return Job(
        backbone=Backbone(name=ARCH, arch=ARCH),
        task=task,
        protocol=protocol,
        seed=seed,
        data=data,
        train_data=data,
        work_dir=folder / "harness",
        cache=folder,
        device="cpu",
        num_workers=1,
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


def measure(task: Task, seed: int) -> tuple[float, ...]:
    """One round: median seconds of a step here and there, and the median ratio of neighbours: in all, and outside."""
    TURNS.__init__(SIDES[seed % 2])
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(task, Path(folder), seed)
        config, settings = config_of(job)
        makers = {
            "harness": lambda: harness(job, config, settings.get("curves") or {}),
            "mmengine": lambda: mmengine(job, config),
        }
        first = SIDES[seed // 2 % 2]  # where memory lies follows from who is made first
        starts = [makers[side]() for side in sorted(SIDES, key=lambda side: side != first)]
        threads = [threading.Thread(target=train, args=(start,)) for start in starts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ours, bare = (np.array(TURNS.seconds[side])[WARMUP:] for side in SIDES)
    rest, bare_rest = (
        np.array(TURNS.seconds[side])[WARMUP:] - np.array(TURNS.model[side])[WARMUP:STEPS] for side in SIDES
    )
    numbers = ours, bare, ours / bare - 1, (rest - bare_rest) / bare
    return tuple(float(np.median(values)) for values in numbers)


def _alone(task: Task, seed: int) -> list[float]:
    """A round in a process of its own: how memory happens to lie moves all steps of a process by percents.

    Its loaders fork from two threads, which can lock up; such a round is begun again.
    """
    command = [sys.executable, __file__, task.name, str(seed)]
    for _ in range(3):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            return list(json.loads(done.stdout.splitlines()[-1]))
    raise TimeoutError(f"{task.name}: three rounds locked up")


def row(task: Task) -> str:
    """A task's line of the table."""
    rounds = 100 * np.array([_alone(task, seed) for seed in range(ROUNDS)])
    ours, bare, more, outside = np.median(rounds, axis=0)
    low, high = rounds[:, 2].min(), rounds[:, 2].max()
    return (
        f"{task.name:24} {10 * ours:9.1f} {10 * bare:9.1f} {more:+7.1f} %  ({low:+.1f} to {high:+.1f}) "
        f"{outside:+9.1f} %  ({rounds[:, 3].min():+.1f} to {rounds[:, 3].max():+.1f})"
    )


def main() -> None:
    """Print a row for every family that trains on mmengine."""
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        (task,) = tasks.find([sys.argv[1]])
        sys.stdout.write(f"{json.dumps(measure(task, int(sys.argv[2])))}\n")
        return
    sys.stdout.write(
        f"{'one step, ms':24} {'harness':>9} {'mmengine':>9} {'more':>9}  (range)        outside the model\n"
    )
    for task in tasks.find(["all"]):
        sys.stdout.write(f"{row(task)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

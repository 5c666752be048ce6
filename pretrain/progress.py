"""What a waiting user sees of pretraining: loss, images a second, the share of waiting, time left."""

import datetime
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from bench.progress import ProgressFile


class ProgressHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """A bar on a terminal, lines elsewhere, scalars for TensorBoard always; on rank 0 alone.

    Losses are summed where they are and read every `interval` iterations: to read makes a GPU wait.
    """

    def __init__(
        self, title: str, images: int, *, interval: int = 10, seconds: float = 10.0
    ) -> None:
        """Take the `images` an iteration, over all processes; say a line every `seconds` at most."""
        self.title, self.images = title, images
        self.interval, self.seconds = interval, seconds
        self.sums: dict[str, Tensor] = {}
        self.bar = Progress(disable=True)

    def before_train(self, runner: Any) -> None:
        """Start where the run was left."""
        console = Console(stderr=True)
        self.quiet = runner.rank > 0
        self.terminal = console.is_terminal and not self.quiet
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bar = Progress(*columns, console=console, disable=not self.terminal)
        self.task = self.bar.add_task(
            self.title, total=runner.max_iters, completed=runner.iter, note=""
        )
        self.bar.start()
        self.file = ProgressFile(
            Path(runner.work_dir), "train", total=runner.max_iters, done=runner.iter
        )
        self.begin = self.since = self.said = time.perf_counter()
        self.first = self.last = runner.iter
        self.waited = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add up; every so often, say."""
        for name, value in outputs.items():
            seen = value.detach().float()
            self.sums[name] = self.sums[name] + seen if name in self.sums else seen
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters or done == self.first + 1:
            self._say(runner, done)

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen, and the whole in one line."""
        self.close()
        iterations = runner.iter - self.first
        if self.quiet or not iterations:
            return
        seconds = time.perf_counter() - self.begin
        waited = runner.train_loop.waited / seconds
        self._line(
            runner,
            f"{iterations} iterations in {_clock(seconds)}: {iterations * self.images / seconds:.0f} images/s, "
            f"waited {waited:.1%}",
        )

    def close(self) -> None:
        """Give the terminal its cursor back."""
        self.bar.stop()

    def _say(self, runner: Any, done: int) -> None:
        losses = {name: float(value) / (done - self.last) for name, value in self.sums.items()}
        now, loop = time.perf_counter(), runner.train_loop
        rate = (done - self.last) * self.images / (now - self.since)
        waited = (loop.waited - self.waited) / (now - self.since)
        scalars = {
            **{f"train/{name}": value for name, value in losses.items()},
            "train/learning_rate": loop.schedule.learning_rate(runner.iter),
            "speed/images_per_second": rate,
            "speed/waited": waited,
        }
        runner.visualizer.add_scalars(scalars, step=done)
        left = (now - self.begin) / (done - self.first) * (runner.max_iters - done)
        note = (
            f"epoch {loop.schedule.epoch(done):.2f}/{loop.schedule.recipe.epochs} loss {losses['loss']:.4f} "
            f"{rate:.0f} images/s, waited {waited:.0%}, {_clock(left)} left"
        )
        self.bar.update(self.task, completed=done, note=note)
        if not self.quiet:
            self.file.update(done)
        if not self.terminal and (now - self.said >= self.seconds or done == self.first + 1):
            self._line(runner, f"iteration {done}/{runner.max_iters} {note}")
            self.said = now
        self.sums, self.since, self.last, self.waited = {}, now, done, loop.waited

    def _line(self, runner: Any, text: str) -> None:
        if not self.quiet:
            runner.logger.info(text)
            sys.stderr.write(f"{self.title}: {text}\n")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))

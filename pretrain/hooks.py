"""The last checkpoints of a run, each whole or absent: SIGKILL at any moment leaves one to go on from."""

import contextlib
import datetime
import logging
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from bench.errors import UserError
from bench.runs.progress import ProgressFile

PATTERN = "checkpoint-*.pth"

logger = logging.getLogger(__name__)


class Checkpoints(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Writes the training state every `interval` seconds and at the end, and keeps the last `keep`.

    Since resuming is exact, when it writes changes no number. Written is after an update of the weights
    only. Raises UserError when it cannot write.
    """

    priority = "VERY_LOW"  # after all that an iteration does

    def __init__(self, interval: float, keep: int = 2) -> None:
        """Count the `interval` from now."""
        assert keep >= 2, "a torn newest checkpoint needs one before it"
        self.interval, self.keep = interval, keep
        self.written = time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Remove what a process left that was killed while it wrote."""
        if runner.rank == 0:
            for path in Path(runner.work_dir).glob(f".{PATTERN}"):
                path.unlink()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write when it is time."""
        done, loop = runner.iter + 1, runner.train_loop
        if runner.rank or done % loop.schedule.accumulate:
            return
        if done == loop.max_iters or time.monotonic() - self.written >= self.interval:
            write(runner, Path(runner.work_dir) / f"checkpoint-{done:09d}.pth")
            for old in _newest_first(Path(runner.work_dir))[self.keep :]:
                old.unlink()
            self.written = time.monotonic()


def write(runner: Any, path: Path) -> None:
    """The runner's state after its current iteration, into a temporary file first."""
    temporary = path.with_name(f".{path.name}")
    try:
        runner.save_checkpoint(str(path.parent), temporary.name, by_epoch=False, save_param_scheduler=False)
        settle(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError on a full disk
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"The checkpoint {path} cannot be written ({error}): training stopped after iteration {runner.iter + 1}. "
            f"Free space or mend the folder, and run the same command again: it continues from the checkpoint before."
        ) from None


def settle(temporary: Path, path: Path) -> None:
    """Give a finished file its name: on the disk first, so that the name never stands for less."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are named in a warning and passed over."""
    for path in _newest_first(folder):
        damage = _damage(path)
        if damage is None:
            return path
        logger.warning("%s is damaged (%s): going on from the one before", path, damage)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN), reverse=True)


def _damage(path: Path) -> str | None:
    """What is wrong with the file, from the sums that its archive keeps of every part; None if nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        return str(error)
    return f"{part} is not what was written" if part else None


# Training that came to no numbers stops, with the iteration named and the last good checkpoint kept.


class FiniteLoss(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Stops at a loss that is no number, and names its iteration.

    The loss is looked at where it is, on the device, and asked for every `interval` iterations: to ask
    makes a GPU wait.
    """

    priority = "HIGH"  # before a checkpoint is written

    def __init__(self, interval: int = 10) -> None:
        """Ask every `interval` iterations; on a CPU, every one."""
        self.interval = interval
        self.first_bad: Tensor | None = None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raise UserError if a loss since the last look was no number."""
        loss = outputs["loss"].detach()
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        bad = (self.first_bad < 0) & ~torch.isfinite(loss)
        self.first_bad = torch.where(bad, runner.iter, self.first_bad)
        if loss.device.type == "cpu" or (runner.iter + 1) % self.interval == 0:
            self._stop_if_bad(runner)

    def after_train(self, runner: Any) -> None:
        """Look once more."""
        if self.first_bad is not None:  # some iteration was trained
            self._stop_if_bad(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep weights that are no numbers from being saved: a loss can be one, and its gradient none."""
        self.after_train(runner)
        weights = checkpoint["state_dict"]
        bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
        if bad:
            lost = f"{len(bad)} weights, {bad[0]} among them, are no numbers after"
            raise _diverged(runner, lost, runner.iter)

    def _stop_if_bad(self, runner: Any) -> None:
        assert self.first_bad is not None
        iteration = int(self.first_bad)
        if iteration >= 0:
            raise _diverged(runner, "The loss is no number in", iteration)


def _diverged(runner: Any, what: str, iteration: int) -> UserError:
    schedule = runner.train_loop.schedule
    last = newest(Path(runner.work_dir))
    return UserError(
        f"{what} iteration {iteration + 1} of {schedule.iterations} (epoch {schedule.epoch(iteration):.2f}, learning "
        f"rate {schedule.learning_rate(iteration):.3g}): training stopped. The last good checkpoint is "
        f"{last or 'none, for none was written before'}. The same command would come to the same: look at the images, "
        f"or take --precision fp32 or a recipe with a lower rate, into another --out."
    )


# What a waiting user sees of pretraining: loss, images a second, the share of waiting, time left.


class ProgressHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """A bar on a terminal, lines elsewhere, scalars for TensorBoard always; on rank 0 alone.

    Losses are summed where they are and read every `interval` iterations: to read makes a GPU wait.
    """

    def __init__(self, title: str, images: int, *, interval: int = 10, seconds: float = 10.0) -> None:
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
        self.task = self.bar.add_task(self.title, total=runner.max_iters, completed=runner.iter, note="")
        self.bar.start()
        self.file = ProgressFile(Path(runner.work_dir), "train", total=runner.max_iters, done=runner.iter)
        self.begin = self.since = self.said = time.perf_counter()
        self.first = self.last = runner.iter
        self.waited = 0.0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
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

"""mmengine hooks shared by evaluation and pretraining: checkpoints, progress, divergence, measurements.

A checkpoint file is complete or absent, so a run killed at any moment can be resumed.
"""

import contextlib
import logging
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from torch import Tensor

from bench.errors import UserError
from bench.runs.progress import ProgressFile

NAME = "checkpoint.pth"
# Keys of mmengine's message hub, which is saved in the checkpoint.
SECONDS, CURVES, WAITED = "train_seconds", "loss_curves", "seconds_waited"

logger = logging.getLogger(__name__)


def write_checkpoint(runner: Any, path: Path, trained: str, **options: Any) -> None:
    """Save the runner's state to `path`, through a temporary file.

    mmengine's own hook writes in place: a kill during the write leaves a truncated file that
    `last_checkpoint` names.

    Args:
        trained: how far training is, such as "epoch 3", for the error message.
        options: arguments of mmengine's `save_checkpoint`.

    Raises UserError when the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        runner.save_checkpoint(str(path.parent), temporary.name, **options)
        replace_durably(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"The checkpoint {path} cannot be written ({error}): training stopped after {trained}. Free disk space or "
            f"fix the folder's permissions, and run the same command again: it resumes from the previous checkpoint."
        ) from None


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename a finished file to `path`; its content reaches the disk before its name does."""
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_checkpoint(folder: Path, pattern: str = NAME) -> Path | None:
    """Return the last file, by name, that matches the pattern and is undamaged; None if there is none."""
    for path in sorted(folder.glob(pattern), reverse=True):
        if (damage := _damage(path)) is None:
            return path
        logger.warning("%s is damaged (%s): training resumes from an earlier checkpoint or starts over", path, damage)
    return None


def _damage(path: Path) -> str | None:
    """Describe what is wrong with the file by the checksums of its zip archive; None if it is undamaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        return str(error)
    return f"{member} has a wrong checksum" if member else None


def discard_checkpoint(work_dir: Path) -> None:
    """Delete the run's checkpoint; its config and log stay."""
    for name in (NAME, f".{NAME}"):
        (work_dir / name).unlink(missing_ok=True)


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Writes the training state at ends of epochs, at most every `interval` seconds.

    Resuming is exact, so the time of writing changes no number.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped

    def __init__(self, interval: float) -> None:
        """Start counting the `interval`, in seconds, now."""
        self.interval = interval
        self.written = time.monotonic()

    def after_train_epoch(self, runner: Any) -> None:
        """Write when the interval has passed, and after the last epoch, so that testing can be resumed."""
        if runner.rank:
            return
        epoch = runner.epoch + 1
        if epoch == runner.max_epochs or time.monotonic() - self.written >= self.interval:
            runner.message_hub.update_info(SECONDS, runner.train_seconds())
            write_checkpoint(runner, Path(runner.work_dir) / NAME, f"epoch {epoch}", by_epoch=True)
            self.written = time.monotonic()


@HOOKS.register_module()
class ProgressHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Draws one bar for training and one for testing on a terminal, and writes progress for `bench.status`."""

    def __init__(self, title: str) -> None:
        """Put `title` in front of both bars."""
        self.title = title
        self.progress = Progress(disable=True)

    def before_train(self, runner: Any) -> None:
        """Start the bar at the resumed iteration."""
        self._start(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one batch."""
        note = f"epoch {runner.epoch + 1}/{runner.max_epochs} loss {float(outputs['loss'].detach()):.3f}"
        self._advance(runner, runner.iter + 1, note=note)

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def before_test(self, runner: Any) -> None:
        """Start a bar that counts test batches."""
        self._start(runner, "test", len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one batch."""
        self._advance(runner, batch_idx + 1)

    def after_test(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def close(self) -> None:
        """Stop drawing and show the terminal's cursor again."""
        self.progress.stop()

    def _start(self, runner: Any, stage: str, total: int, completed: int) -> None:
        columns = ("{task.description}", BarColumn(), "{task.fields[note]}", TimeRemainingColumn())
        console = Console(stderr=True)
        self.drawn = console.is_terminal and runner.rank == 0
        self.progress = Progress(*columns, console=console, disable=not self.drawn)
        self.bar = self.progress.add_task(f"{self.title} {stage}", total=total, completed=completed, note="")
        self.progress.start()
        self.file = ProgressFile(Path(runner.work_dir), stage, total=total, done=completed)

    def _advance(self, runner: Any, completed: int, note: str = "") -> None:
        self.progress.update(self.bar, completed=completed, note=note)
        if runner.rank == 0:
            self.file.update(completed)


@HOOKS.register_module()
class FiniteLossHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Stops training at the first loss that is NaN or infinite."""

    priority = "HIGH"  # before a checkpoint is written

    def __init__(self, interval: int = 1) -> None:
        """Read the result every `interval` iterations; on a CPU, where reading is free, in each."""
        self.interval = interval
        self.first_bad: Tensor | None = None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raise UserError if a loss since the last reading was not finite."""
        loss = outputs["loss"].detach()
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        # The test stays on the device: reading its result in each iteration would make a GPU wait.
        bad = (self.first_bad < 0) & ~torch.isfinite(loss)
        self.first_bad = torch.where(bad, runner.iter, self.first_bad)
        if loss.device.type == "cpu" or (runner.iter + 1) % self.interval == 0:
            self._stop_if_bad(runner, outputs)

    def after_train(self, runner: Any) -> None:
        """Read the result of the last iterations."""
        self._stop_if_bad(runner, {})

    def _stop_if_bad(self, runner: Any, outputs: Mapping[str, Tensor]) -> None:
        iteration = -1 if self.first_bad is None else int(self.first_bad)
        if iteration >= 0:
            raise self.error(runner, iteration, outputs)

    def error(self, runner: Any, iteration: int, outputs: Mapping[str, Tensor]) -> UserError:
        """Return the message for a loss that diverged at `iteration`; `outputs` are the latest loss terms."""
        terms = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in outputs.items())
        rates = {f"{rate:.3g}" for rates in runner.optim_wrapper.get_lr().values() for rate in rates}
        return UserError(
            f"Training diverged in epoch {runner.epoch + 1}, iteration {iteration + 1}: {terms}, at the learning rates "
            f"{', '.join(sorted(rates)[:3])}. This run has no result. Look at its log in {runner.work_dir}; check the "
            f"weights and the images, or define a protocol with a lower learning rate."
        )


@HOOKS.register_module()
class MeasuringHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Records curves of loss terms, one value an iteration, and the time spent waiting for the data loader.

    Both are saved in the checkpoint, so those of a resumed run are complete. Waiting is the time between two
    steps: fetching a batch, and starting the workers of an epoch.
    """

    priority = "VERY_LOW"  # the time of other hooks after a step does not count as waiting

    def __init__(self, curves: Mapping[str, Sequence[str]]) -> None:
        """Record, for each curve, the sum of the terms it names, as the model's `loss` calls them."""
        self.terms = curves

    def before_train(self, runner: Any) -> None:
        """Continue the curves of a resumed checkpoint."""
        hub = runner.message_hub
        self.curves = hub.get_info(CURVES, {name: [] for name in self.terms})
        self.waited = hub.get_info(WAITED, 0.0)

    def before_train_epoch(self, runner: Any) -> None:
        """Start waiting for the first batch."""
        self.since = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Stop waiting: the batch has arrived."""
        self.waited += time.perf_counter() - self.since

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Record the terms, and start waiting for the next batch."""
        for name, terms in self.terms.items():
            self.curves[name].append(float(sum(outputs[term].detach() for term in terms)))
        self.since = time.perf_counter()

    def after_train_epoch(self, runner: Any) -> None:
        """Pass both to the checkpoint, which is written after this."""
        runner.message_hub.update_info(CURVES, self.curves)
        runner.message_hub.update_info(WAITED, self.waited)

"""One checkpoint a run, whole or absent: SIGKILL at any moment leaves something to resume from."""

import contextlib
import logging
import math
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.errors import UserError
from bench.runs.progress import ProgressFile

NAME = "checkpoint.pth"
SECONDS = "train_seconds"  # kept in mmengine's message hub, which a checkpoint holds

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Writes the training state at the ends of epochs, at most every `interval` seconds.

    mmengine's own hook writes in place, so a kill during the write leaves a truncated file that
    `last_checkpoint` names. When it writes changes no number, since resuming is exact. Raises
    UserError when it cannot write.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped

    def __init__(self, interval: float) -> None:
        """Count the `interval` in seconds, from now."""
        self.interval = interval
        self.written = time.monotonic()

    def after_train_epoch(self, runner: Any) -> None:
        """Write when it is time, and always after the last epoch, so that testing can resume."""
        if runner.rank:
            return
        last = runner.epoch + 1 == runner.max_epochs
        if last or time.monotonic() - self.written >= self.interval:
            self._write(runner)
            self.written = time.monotonic()

    def _write(self, runner: Any) -> None:
        folder = Path(runner.work_dir)
        temporary = folder / f".{NAME}"
        runner.message_hub.update_info(SECONDS, runner.train_seconds())
        try:
            runner.save_checkpoint(str(folder), temporary.name, by_epoch=True)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(folder / NAME)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()  # half a file on a full disk
            raise UserError(
                f"The checkpoint {folder / NAME} cannot be written ({error.strerror}): training stopped after epoch "
                f"{runner.epoch + 1}. Free space or mend the folder, and run the same command again: it continues "
                f"from the checkpoint before."
            ) from None


def resumable(work_dir: Path) -> Path | None:
    """The run's checkpoint; None, with a logged line, when it is absent or cannot be read."""
    path = work_dir / NAME
    if not path.is_file():
        return None
    try:
        # The file is this run's own: it holds mmengine's log buffers beside the tensors.
        meta = torch.load(path, map_location="cpu", weights_only=False)["meta"]
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        logger.warning("%s is damaged (%s): training starts over", path, error)
        return None
    logger.info("resuming %s after epoch %d", work_dir, meta["epoch"])
    return path


def discard(work_dir: Path) -> None:
    """Delete the run's checkpoint; its config and log stay."""
    for name in (NAME, f".{NAME}"):
        (work_dir / name).unlink(missing_ok=True)


# What a waiting user sees: epoch, loss and time left, on stderr; and a stop at the first NaN.


@HOOKS.register_module()
class ProgressHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """One bar for training and one for testing. Draws on a terminal; elsewhere `bench.status` shows it."""

    def __init__(self, title: str) -> None:
        """Put `title` before both bars."""
        self.title = title
        self.progress = Progress(disable=True)

    def before_train(self, runner: Any) -> None:
        """Start where the run was left."""
        self._start(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one batch."""
        note = f"epoch {runner.epoch + 1}/{runner.max_epochs} loss {float(outputs['loss'].detach()):.3f}"
        self._advance(runner, runner.iter + 1, note=note)

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def before_test(self, runner: Any) -> None:
        """Count batches anew."""
        self._start(runner, "test", len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one batch."""
        self._advance(runner, batch_idx + 1)

    def after_test(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal its cursor back."""
        self.progress.stop()

    def _start(self, runner: Any, what: str, total: int, completed: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        hidden = not console.is_terminal or runner.rank > 0
        self.progress = Progress(*columns, console=console, disable=hidden)
        name = f"{self.title} {what}"
        self.bar = self.progress.add_task(name, total=total, completed=completed, note="")
        self.progress.start()
        self.file = ProgressFile(Path(runner.work_dir), what, total=total, done=completed)

    def _advance(self, runner: Any, completed: int, note: str = "") -> None:
        self.progress.update(self.bar, completed=completed, note=note)
        if runner.rank == 0:
            self.file.update(completed)


@HOOKS.register_module()
class FiniteLossHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Stops at the first loss that is no number: nothing after it could be one."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raise UserError with the terms of the loss and the learning rate."""
        values = {name: float(value.detach()) for name, value in outputs.items()}
        if math.isfinite(values["loss"]):
            return
        terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        rates = {f"{rate:.3g}" for rates in runner.optim_wrapper.get_lr().values() for rate in rates}
        raise UserError(
            f"Training diverged in epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {terms}, at the learning "
            f"rates {', '.join(sorted(rates)[:3])}. No number comes of this run. Look at its log in {runner.work_dir}; "
            f"check the weights and the images, or define a protocol with a lower learning rate."
        )


# What a run keeps of its training: the curves of its losses, and the time it waited for images.

CURVES, WAITED = ("loss_curves", "seconds_waited")  # in mmengine's message hub, which a checkpoint holds


@HOOKS.register_module()
class MeasuringHook(Hook):  # type: ignore[misc]  # mmengine is untyped
    """Adds terms of the loss to named curves, one value an iteration, and times the data loader.

    A curve lives in the checkpoint, so that of a resumed run is whole. Waiting is the time between
    two steps: fetching a batch, and starting the workers of an epoch.
    """

    priority = "VERY_LOW"  # what other hooks do after a step is none of the loader's time

    def __init__(self, curves: Mapping[str, Sequence[str]]) -> None:
        """Keep, for each curve, the sum of the terms it names, as the model's `loss` calls them."""
        self.terms = curves

    def before_train(self, runner: Any) -> None:
        """Go on with what a resumed checkpoint holds."""
        hub = runner.message_hub
        self.curves = hub.get_info(CURVES, {name: [] for name in self.terms})
        self.waited = hub.get_info(WAITED, 0.0)

    def before_train_epoch(self, runner: Any) -> None:
        """Start to wait for the first batch."""
        self.since = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """The batch is there."""
        self.waited += time.perf_counter() - self.since

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the terms, and wait for the next batch."""
        for name, terms in self.terms.items():
            self.curves[name].append(float(sum(outputs[term].detach() for term in terms)))
        self.since = time.perf_counter()

    def after_train_epoch(self, runner: Any) -> None:
        """Hand over to the checkpoint, which is written after this."""
        runner.message_hub.update_info(CURVES, self.curves)
        runner.message_hub.update_info(WAITED, self.waited)

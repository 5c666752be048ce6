"""What a waiting user sees: epoch, loss and time left, on stderr; and a stop at the first NaN."""

import math
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.errors import UserError
from bench.progress import ProgressFile


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

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Advance by one batch."""
        note = f"epoch {runner.epoch + 1}/{runner.max_epochs} loss {float(outputs['loss'].detach()):.3f}"
        self._advance(runner, runner.iter + 1, note=note)

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        self.close()

    def before_test(self, runner: Any) -> None:
        """Count batches anew."""
        self._start(runner, "test", len(runner.test_dataloader), 0)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
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

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Raise UserError with the terms of the loss and the learning rate."""
        values = {name: float(value.detach()) for name, value in outputs.items()}
        if math.isfinite(values["loss"]):
            return
        terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        rates = {
            f"{rate:.3g}" for rates in runner.optim_wrapper.get_lr().values() for rate in rates
        }
        raise UserError(
            f"Training diverged in epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {terms}, at the learning "
            f"rates {', '.join(sorted(rates)[:3])}. No number comes of this run. Look at its log in {runner.work_dir}; "
            f"check the weights and the images, or define a protocol with a lower learning rate."
        )

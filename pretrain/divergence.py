"""Training that came to no numbers stops, with the iteration named and the last good checkpoint kept."""

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from bench.errors import UserError
from pretrain.checkpointing import newest


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

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
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

"""One checkpoint a run, whole or absent: SIGKILL at any moment leaves something to resume from."""

import contextlib
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from bench.errors import UserError

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

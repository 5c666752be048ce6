"""The last checkpoints of a run, each whole or absent: SIGKILL at any moment leaves one to go on from."""

import contextlib
import logging
import os
import time
import zipfile
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from bench.errors import UserError

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

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
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
        runner.save_checkpoint(
            str(path.parent), temporary.name, by_epoch=False, save_param_scheduler=False
        )
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

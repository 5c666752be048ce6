"""The progress of a run, as a file in its folder that other processes read."""

import contextlib
import dataclasses
import json
import time
from pathlib import Path

from bench.files import write_atomic

NAME, SECONDS = "progress.json", 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """`done` of `total` steps of `what`; `left` is the seconds until the end, if known."""

    what: str
    done: int
    total: int
    left: float | None


class ProgressFile:
    """Writes a run's progress, at most every five seconds."""

    def __init__(self, folder: Path, what: str, *, total: int, done: int = 0) -> None:
        """Start at `done`, the steps of an earlier process."""
        self.path, self.what, self.total = folder / NAME, what, total
        self.first, self.began, self.written = done, time.monotonic(), 0.0

    def update(self, done: int) -> None:
        """Record the number of finished steps."""
        now = time.monotonic()
        if now - self.written < SECONDS and done < self.total:
            return
        left = (now - self.began) / (done - self.first) * (self.total - done) if done > self.first else None
        progress = Progress(what=self.what, done=done, total=self.total, left=left)
        self.written = now
        with contextlib.suppress(OSError):  # a full disk must not stop a training for this
            write_atomic(self.path, json.dumps(dataclasses.asdict(progress)), sync=False)


def read(folder: Path) -> Progress | None:
    """Return the progress last written; None if there is none."""
    try:
        return Progress(**json.loads((folder / NAME).read_text()))
    except (OSError, ValueError, TypeError):  # none, or an earlier version's format
        return None

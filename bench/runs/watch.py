"""The weights files of a running pretraining, each once, in the order in which they appear.

python -m pretrain.run ... --out runs/mae --snapshot-epochs 10
python -m bench.run --watch runs/mae --task classification depth
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.errors import UserError

LAST = "backbone.safetensors"  # written at the end of a pretraining
POLL_SECONDS = 5.0


def follow(folder: Path, evaluate: Callable[[list[str]], int]) -> int:
    """Call `evaluate` with new files until the last one has appeared, and return the worst exit status.

    Files that an earlier command evaluated are in the store and cost nothing. Without a last file it waits until
    Ctrl-C. Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"--watch {folder} is not a folder. Give the --out of a pretraining that has started (with "
            f"--snapshot-epochs)."
        )
    seen: set[Path] = set()
    worst = 0
    if not files(folder):
        sys.stderr.write(f"No weights in {folder} yet: waiting for the first.\n")
    while True:
        new = [path for path in files(folder) if path not in seen]
        if new:
            worst = max(worst, evaluate([str(path) for path in new]))
            seen.update(new)
        if folder / LAST in seen:
            return worst
        time.sleep(POLL_SECONDS)


def files(folder: Path) -> list[Path]:
    """Return the complete weights files below a folder, oldest first."""
    found = [path for path in folder.rglob("*.safetensors") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))

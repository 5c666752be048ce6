"""The weights files of a pretraining at work, in the order in which they appear, each once.

python -m pretrain.run ... --out runs/mae --snapshot-epochs 10
python -m bench.run --watch runs/mae --task classification depth
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.errors import UserError

LAST = "backbone.safetensors"  # of a pretraining that has ended
POLL_SECONDS = 5.0


def follow(folder: Path, evaluate: Callable[[list[str]], int]) -> int:
    """Hand over what is new, until the last file is among it; returns the worst exit status.

    What an earlier command evaluated is in the store, and costs nothing. Raises UserError where there is
    no such folder; a pretraining that never ends is waited for until Ctrl-C.
    """
    if not folder.is_dir():
        raise UserError(
            f"--watch {folder} is no folder. Give the --out of a pretraining that has begun (with --snapshot-epochs)."
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
    """The weights files below a folder, whole ones only, oldest first."""
    found = [path for path in folder.rglob("*.safetensors") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))

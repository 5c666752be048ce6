"""An output folder belongs to one run: to what its `run.json` says, and to one process at a time."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from bench.errors import UserError
from bench.results import write_atomic

NAME, LOCK = "run.json", ".lock"
WORK = ("checkpoint-*.pth", "*.safetensors")


def claim(out: Path, identity: Mapping[str, Any]) -> IO[str]:
    """Take the folder for a run, new or gone on with; it is held until the returned file is closed.

    `identity` is all that the weights follow from, as JSON values. Raises UserError when the folder holds
    another run's checkpoints or backbone, or another process works in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise UserError(
            f"The output folder {out} cannot be written ({error.strerror}). Give another --out."
        ) from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"Another process trains in {out} at this moment. Wait for it, end it, or give another --out."
        ) from None
    there = out / NAME
    work = [path for pattern in WORK for path in out.glob(pattern)]
    before = json.loads(there.read_text("utf-8")) if there.is_file() else {}
    differences = list(_differences(before, identity))
    if not work:
        write_atomic(there, json.dumps(identity, indent=1) + "\n")
    elif differences:
        raise UserError(
            f"{out} holds another run: {'; '.join(differences)}. Give the settings of that run to go on with it, or "
            f"another --out for this one."
        )
    return lock


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """What of two nested values is not the same, said by its place."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*there, *now]):
            yield from _differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif there != now:
        yield f"{name} is {json.dumps(there)} there and {json.dumps(now)} here"

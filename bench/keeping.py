"""A run's result into the store, by way of its own folder: what was computed is not lost on the way.

What a family leaves in the folder `beside` of its run (pictures) goes with it: beside the record
`<digest8>-seed<k>.json` lies `<digest8>-seed<k>.<name>`.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError
from bench.plan import Run
from bench.results import Result, Store, write_atomic

KEPT = "result.json"
BESIDE = "beside"  # below a run's folder


def beside(record: Path, name: str) -> Path:
    """Where a file that belongs to a record lies."""
    return record.with_name(f"{record.stem}.{name}")


def kept(run: Run) -> Result | None:
    """What an earlier process computed, and could not write into the store."""
    path = run.folder / KEPT
    return Result.from_json(path.read_bytes()) if path.is_file() else None


def keep(run: Run, result: Result) -> None:
    """Write the record; a number first into the run's folder. Raises UserError where that cannot be done."""
    with _saying(run):
        if result.status == "done":
            run.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(run.folder / KEPT, result.to_json())
            _copy_beside(run)
        Store(run.results).write(run.key, result)
        (run.folder / KEPT).unlink(missing_ok=True)


def _copy_beside(run: Run) -> None:
    """Before the record, so that whoever sees it sees its pictures."""
    record = run.results / run.key.path
    for file in sorted((run.folder / BESIDE).glob("*")):
        record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, beside(record, file.name))


def keep_first(run: Run, result: Result) -> None:
    """Write the record unless there is one, as the file server sees it; raises UserError as `keep`."""
    path = run.results / run.key.path
    mine = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.new")
    with _saying(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(mine, result.to_json())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
        finally:
            mine.unlink()


@contextlib.contextmanager
def _saying(run: Run) -> Iterator[None]:
    """Say what is kept, and what to do."""
    try:
        yield
    except OSError as error:
        path: Path = run.folder / KEPT
        saved = f"What was computed is kept in {path}. " if path.is_file() else ""
        raise UserError(
            f"The record {run.results / run.key.path} cannot be written ({error.strerror}). {saved}Free some space "
            f"or mend the folder, and give the same command again: it goes on from there."
        ) from None

"""Files on disk: hashes, atomic writes, exclusive locks, the cache folder."""

import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import UserError

HEARTBEAT, EXPIRES = 5.0, 60.0  # seconds
LONG_AGO = 600.0  # seconds: more than clocks of machines differ by


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder, once nobody else does. `lock` says which process, `lease` which machine or job too."""
    with (folder / "lock").open("a") as lock:
        # The lock is the process's own: a child that outlives it holds nothing, as it would with flock.
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        lease = folder / "lease"
        _await_end(lease)
        ended = threading.Event()
        lease.write_text(_owner())
        heart = threading.Thread(target=_beat, args=(lease, ended), daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()
            lease.unlink(missing_ok=True)


def _owner() -> str:
    """This Slurm job, in whichever of its starts; else this machine: its own lock tells of its processes."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"job {job}" if job else f"host {socket.gethostname()}"


def _await_end(lease: Path) -> None:
    """Wait until no beat was seen for so long; by this machine's clock, since others' may differ."""
    seen, since = None, time.monotonic()
    while time.monotonic() - since < EXPIRES:
        try:
            owner, beat = lease.read_text(), lease.stat().st_mtime
        except FileNotFoundError:
            return
        # An earlier start of this job, or a process of this machine whose lock was let go of.
        if owner == _owner() or time.time() - beat > LONG_AGO:
            return
        if beat != seen:
            seen, since = beat, time.monotonic()
        time.sleep(min(HEARTBEAT, EXPIRES) / 4)


def _beat(lease: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):  # the folder may be gone: then nobody can wait for it either
            os.utime(lease)


def cache_dir() -> Path:
    """The folder of what can be made again: `$BENCH_CACHE`, else `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE", "~/.cache/bench")).expanduser()


def file_sha256(path: Path) -> str:
    """A file's SHA-256; remembered, so that an unchanged file is read once."""
    return content_sha256(path.parent, [path])


def content_sha256(root: Path, files: Iterable[Path]) -> str:
    """The SHA-256 over the files' paths (relative to `root`) and contents; a single file's own.

    The answer is remembered under the files' sizes and modification times, never under them alone:
    moving a data set changes neither its hash nor, once hashed, a record's digest.
    """
    files = sorted(files)
    stats = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    signature = hashlib.sha256(json.dumps([str(root.resolve()), stats]).encode()).hexdigest()
    memory = cache_dir() / "sha256" / signature
    if memory.is_file():
        return memory.read_text()
    value = _sha256(root, files)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(memory, value)
    return value


def _sha256(root: Path, files: list[Path]) -> str:
    def one(path: Path) -> str:
        with path.open("rb") as file:
            value = hashlib.sha256()
            while block := file.read(1 << 20):
                value.update(block)
            return value.hexdigest()

    if len(files) == 1:
        return one(files[0])
    lines = "".join(f"{one(f)}  {f.relative_to(root).as_posix()}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def digest(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, equal across processes and machines."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_writable(folder: Path, flag: str) -> None:
    """Create a folder and a file in it; raises UserError where that cannot be done."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written ({error.strerror}). Nothing was run. "
            f"Give another with {flag} DIR, or mend its permissions."
        ) from None


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one whole."""
    # Processes of two machines may have one number.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

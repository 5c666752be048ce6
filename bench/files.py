"""Files on disk: hashes, atomic writes, exclusive locks, the cache folder."""

import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from bench.errors import UserError

HEARTBEAT, EXPIRES = 5.0, 60.0  # seconds
LONG_AGO = 600.0  # seconds: more than clocks of machines differ by
OWNER_FILE = "lease"  # in a locked folder: who has locked it; its modification time is the last heartbeat


@contextmanager
def locked(path: Path, *, on_busy: Callable[[], None] | None = None) -> Iterator[TextIO]:
    """Lock the file `path` for this process alone; create it if missing, and wait while another process has it.

    Args:
        on_busy: called once before waiting; it may report the wait, or raise instead of waiting.
    """
    with path.open("a") as file:
        # lockf, not flock: a child process that outlives this one must not inherit the lock.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either error
            if on_busy:
                on_busy()
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield file


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, also against other machines whose file system does not share locks.

    `lock` in the folder contains this process's number; `lease` names the machine or Slurm job, and its
    modification time is renewed every `HEARTBEAT` seconds.
    """
    with locked(folder / "lock") as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        owner_file = folder / OWNER_FILE
        _await_silence(owner_file)
        ended = threading.Event()
        owner_file.write_text(_owner())
        heart = threading.Thread(target=_beat, args=(owner_file, ended), daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()
            owner_file.unlink(missing_ok=True)


def _owner() -> str:
    """Name this Slurm job (the same after a requeue), else this machine, whose processes `lock` tells apart."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"job {job}" if job else f"host {socket.gethostname()}"


def _await_silence(owner_file: Path) -> None:
    """Wait until another machine's heartbeat has not changed for `EXPIRES` seconds of this machine's clock."""
    seen, since = None, time.monotonic()
    while time.monotonic() - since < EXPIRES:
        try:
            owner, beat = owner_file.read_text(), owner_file.stat().st_mtime
        except FileNotFoundError:
            return
        # An earlier start of this job, or a process of this machine that has released its lock.
        if owner == _owner() or time.time() - beat > LONG_AGO:
            return
        if beat != seen:
            seen, since = beat, time.monotonic()
        time.sleep(min(HEARTBEAT, EXPIRES) / 4)


def _beat(owner_file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):  # if the folder was deleted, nobody can wait for it either
            os.utime(owner_file)


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename what was written there to `path` at the end.

    A reader, or the state after a crash, sees the old file or the whole new one. If the block raises, the old
    file stays. `sync` flushes the new file to the disk first.
    """
    # The host is in the name since processes of two machines may have one number.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str, *, sync: bool = True) -> None:
    """Write `text` to `path` through a temporary file, as `replacing` does."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cache_dir() -> Path:
    """Return the folder of recreatable files: `$BENCH_CACHE`, else `~/.cache/bench`."""
    return Path(os.environ.get("BENCH_CACHE", "~/.cache/bench")).expanduser()


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256; cached, so an unchanged file is read once."""
    return content_sha256(path.parent, [path])


def content_sha256(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 over the files' paths (relative to `root`) and contents; of a single file, its own.

    It depends on paths and contents only, so moving a data set changes neither its hash nor a record's digest.
    The value is cached under the folder and the files' sizes and modification times.
    """
    files = sorted(files)
    stats = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    signature = hashlib.sha256(json.dumps([str(root.resolve()), stats]).encode()).hexdigest()
    cached = cache_dir() / "sha256" / signature
    if cached.is_file():
        return cached.read_text()
    value = _sha256(root, files)
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cached, value)
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
    """Create the folder and a file in it; raises UserError if that fails."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written ({error.strerror}). Nothing was run. "
            f"Give another with {flag} DIR, or fix its permissions."
        ) from None

"""A run's folder belongs to one process at a time, on all machines that share it.

The holder keeps a lock that ends with its process, and a lease whose heartbeat others can see where
file systems share files but no locks. Neither outlives a crash: a lease without a heartbeat expires.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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

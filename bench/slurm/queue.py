"""What Slurm says of this user's jobs: one squeue every ten seconds, however many jobs and watchers.

The answer is shared between processes by a small file. sacct is never asked: it is absent on many sites,
late on all, and calls a job dead that is about to start again after a node failure; what ended a job is
in its own log.
"""

import dataclasses
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from bench.files import cache_dir, locked, write_atomic
from bench.slurm.cluster import ask

INTERVAL = 10.0  # seconds
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
# Slurm starts these again, unless the site forbids it: then they are soon gone from the queue.
RETURNING = {"PREEMPTED", "NODE_FAIL"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queue:
    """The jobs that squeue listed, those that ended a little while ago among them.

    Args:
        asked: when, in seconds since the epoch.
        jobs: state and reason, by job id ("12", or "12_3" in an array).
    """

    asked: float
    jobs: Mapping[str, tuple[str, str]]

    def state(self, job: str, submitted: float) -> str:
        """One of "running", "queued", "ended"; a job younger than the answer is queued."""
        found = self.jobs.get(job, ("", ""))[0]
        if found in RUNNING:
            return "running"
        if found in WAITING | RETURNING or (not found and submitted > self.asked - INTERVAL):
            return "queued"
        return "ended"

    def reason(self, job: str) -> str:
        """Slurm's word for why a job waits, or how it ended."""
        state, reason = self.jobs.get(job, ("", ""))
        return reason if state in WAITING and reason not in ("", "None") else state


def queue() -> Queue:
    """The newest answer, at most `INTERVAL` old; raises UserError where Slurm does not answer.

    An answer that failed is no empty queue: nothing follows from it.
    """
    path = _shared()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        known = _read(path)
        if known and 0 <= time.time() - known.asked < INTERVAL:
            return known
        fresh = _ask()
        write_atomic(path, json.dumps({"asked": fresh.asked, "jobs": fresh.jobs}))
        return fresh


def _shared() -> Path:
    """The file of this machine and this cluster: clocks of other machines may differ."""
    cluster = hashlib.sha256(os.environ.get("SLURM_CONF", "").encode()).hexdigest()[:8]
    return cache_dir() / "slurm" / f"{socket.gethostname()}-{getpass.getuser()}-{cluster}.json"


def _read(path: Path) -> Queue | None:
    try:
        known = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return Queue(asked=known["asked"], jobs={job: (s, r) for job, (s, r) in known["jobs"].items()})


def _ask() -> Queue:
    asked = time.time()
    told = ask("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%r")
    parts = [line.split("|", 2) for line in told.splitlines()]
    return Queue(asked=asked, jobs={job: (state, reason) for job, state, reason in parts})

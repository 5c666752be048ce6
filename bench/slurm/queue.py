"""The state of this user's jobs, from one squeue every ten seconds for any number of jobs and watching processes.

The processes share the answer in a small file. sacct is not used: many sites lack it, it is late everywhere, and it
reports a job as dead that is about to restart after a node failure. The job's own log has the reason for its end.
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
# Slurm restarts these, unless the site forbids it: then they soon leave the queue.
RETURNING = {"PREEMPTED", "NODE_FAIL"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queue:
    """The jobs that squeue listed, including those that ended recently.

    Args:
        asked: when, in seconds since the epoch.
        jobs: state and reason, by job id ("12", or "12_3" in an array).
    """

    asked: float
    jobs: Mapping[str, tuple[str, str]]

    def state(self, job: str, submitted: float) -> str:
        """Return "running", "queued" or "ended"; a job submitted after squeue was asked is queued."""
        found = self.jobs.get(job, ("", ""))[0]
        if found in RUNNING:
            return "running"
        if found in WAITING | RETURNING or (not found and submitted > self.asked - INTERVAL):
            return "queued"
        return "ended"

    def reason(self, job: str) -> str:
        """Return Slurm's reason why a job waits, else its state."""
        state, reason = self.jobs.get(job, ("", ""))
        return reason if state in WAITING and reason not in ("", "None") else state


def queue() -> Queue:
    """Return the newest answer, at most `INTERVAL` seconds old; raises UserError if Slurm does not answer."""
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
    """Return the file of this machine and cluster; other machines have their own, since clocks may differ."""
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
    answer = ask("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%r")
    parts = [line.split("|", 2) for line in answer.splitlines()]
    return Queue(asked=asked, jobs={job: (state, reason) for job, state, reason in parts})

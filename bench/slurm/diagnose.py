"""Why a job ended without a record: Slurm writes the cause into the job's log."""

import re
from pathlib import Path

from bench.files import OWNER_FILE
from bench.runs import execute
from bench.runs.plan import Run
from bench.slurm.jobs import Submitted

TAIL = 8192  # bytes
LINES = 3
CAUSES = {
    r"oom.kill|out of memory|exceeded (job )?memory limit": "it ran out of memory: give more with --slurm mem=...",
    r"^MemoryError": "it ran out of memory: give more with --slurm mem=...",
    r"DUE TO TIME LIMIT": "its time was up, and it was not queued again: give more with --slurm time=...",
    r"DUE TO NODE FAILURE": "its node failed",
    r"DUE TO PREEMPTION": "it was preempted, and not queued again",
    r"task \d+: (Killed|Terminated|Segment|Bus error|Aborted)": "a process of it was killed, or crashed",
    r"CANCELLED AT": "it was cancelled",
}
ENDINGS = {
    "CANCELLED": "it was cancelled before it started.",
    "OUT_OF_MEMORY": "it ran out of memory.",
    "TIMEOUT": "its time was up.",
    "DEADLINE": "its deadline came.",
}
NOISE = re.compile(r"^\s*$|^submitit (WARNING|INFO)|Force Terminated|launch of task|STEP \S+ ON \S+ CANCELLED")


def record_ended_job(submitted: Submitted, state: str) -> bool:
    """Write a failure record for a job that ended without one; return False if the cause is unknown.

    `state` is the last one that Slurm reported, "" if it has forgotten the job. Raises UserError if the store cannot
    be written.
    """
    cause = cause_in_log(submitted.errors) or ENDINGS.get(state)
    try:
        call = submitted.call()
    except OSError:
        return False
    run = next((a for a in getattr(call, "args", ()) if isinstance(a, Run)), None)
    if run is None or cause is None:
        return False
    (run.folder / OWNER_FILE).unlink(missing_ok=True)  # squeue reports the job as ended: nobody holds the lock
    how = f" ({state})" if state else ""
    execute.record_failure(
        run, f"The Slurm job {submitted.job} ended{how} without a record: {cause} Log: {submitted.errors}"
    )
    return True


def cause_in_log(log: Path) -> str | None:
    """Return the cause if the end of the log has a known line, else its last lines; None without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    for pattern, cause in CAUSES.items():
        found = [line for line in lines if re.search(pattern, line, re.I)]
        if found:
            return f"{cause} ({' | '.join(found[-LINES:])})."
    rest = [line for line in lines if not NOISE.search(line)][-LINES:]
    return f"its log ends with: {' | '.join(rest)}." if rest else "its log has no error."

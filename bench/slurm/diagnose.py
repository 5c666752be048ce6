"""What became of a job that left no record, from its log: Slurm writes there why it ended one."""

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


def reap(submitted: Submitted, state: str) -> bool:
    """Leave the record of a job that has ended without one; False where nothing says what happened.

    `state` is Slurm's last word of it, "" where it has forgotten. Raises UserError where the store cannot
    take a record.
    """
    words = last_words(submitted.errors) or ENDINGS.get(state)
    try:
        call = submitted.call()
    except OSError:
        return False
    run = next((a for a in getattr(call, "args", ()) if isinstance(a, Run)), None)
    if run is None or words is None:
        return False
    (run.folder / OWNER_FILE).unlink(missing_ok=True)  # squeue reports the job as ended: nobody holds the lock
    how = f" ({state})" if state else ""
    execute.record_failure(
        run, f"The Slurm job {submitted.job} ended{how} without a record: {words} Log: {submitted.errors}"
    )
    return True


def last_words(log: Path) -> str | None:
    """The cause, where lines of the log's end are known to tell one, else its last lines; None without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    for pattern, cause in CAUSES.items():
        told = [line for line in lines if re.search(pattern, line, re.I)]
        if told:
            return f"{cause} ({' | '.join(told[-LINES:])})."
    told = [line for line in lines if not NOISE.search(line)][-LINES:]
    return f"its last words were: {' | '.join(told)}." if told else "its log has no word of an error."

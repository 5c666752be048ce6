"""What became of a job that left no record, from its log: Slurm writes there why it ended one."""

import re
from pathlib import Path

from bench import job
from bench.plan import Run
from bench.slurm.submission import Submitted

TAIL = 8192  # bytes
LINES = 3
CAUSES = {
    r"oom.kill|out of memory|exceeded memory limit|MemoryError": "it ran out of memory: give --slurm mem=... more",
    r"DUE TO TIME LIMIT": "its time was up before it could be queued again: give --slurm time=... more",
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
NOISE = re.compile(
    r"^\s*$|^submitit (WARNING|INFO)|Force Terminated|launch of task|STEP \S+ ON \S+ CANCELLED"
)


def reap(submitted: Submitted, reason: str) -> bool:
    """Leave the record of a job that has ended without one; False where nothing says what happened.

    Raises UserError where the store cannot take it.
    """
    words = last_words(submitted.errors)
    try:
        call = submitted.call()
    except OSError:
        return False
    run = next((a for a in getattr(call, "args", ()) if isinstance(a, Run)), None)
    if run is None or (not words and reason not in ENDINGS):
        return False
    (run.folder / "lease").unlink(missing_ok=True)  # squeue says that nobody is left to keep it
    said = words or ENDINGS[reason]
    job.bury(
        run, f"The Slurm job {submitted.job} ended without a record: {said} Log: {submitted.errors}"
    )
    return True


def last_words(log: Path) -> str:
    """The cause, where a line of the log's end is known to be one, and the last lines; "" without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines()]
    cause, line = next(
        (
            (c, line)
            for pattern, c in CAUSES.items()
            for line in reversed(lines)
            if re.search(pattern, line, re.I)
        ),
        ("", ""),
    )
    if cause:
        return f"{cause} ({line})."
    told = [line for line in lines if not NOISE.search(line)][-LINES:]
    return f"its last words were: {' | '.join(told)}." if told else ""

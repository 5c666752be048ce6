"""Cancel Slurm jobs of runs that have not ended; finished records stay.

    python -m bench.cancel [PATTERN ...] [--work-dir DIR]

A pattern is part of a run's title as bench.status shows it ("detection", "seed 3"); wildcards are allowed.
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.slurm.cluster import ask
from bench.slurm.jobs import FOLDER, Submitted, note_cancelled, submitted
from bench.slurm.queue import queue

AT_ONCE = 500  # ids in one command


def main(argv: Sequence[str] | None = None) -> int:
    """Cancel the matching jobs; return 0, or 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cancel", description="Cancel runs that were submitted to Slurm."
    )
    parser.add_argument("pattern", nargs="*", help="Cancel the runs whose titles contain this (default: all).")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="Find the jobs of this folder (default: runs).",
    )
    arguments = parser.parse_args(argv)
    try:
        for job in cancel(arguments.work_dir.resolve(), arguments.pattern):
            sys.stdout.write(f"cancelled  job {job.job}  {job.title}\n")
    except UserError as error:
        sys.stderr.write(f"bench.cancel: {error}\n")
        return 2
    return 0


def cancel(work_dir: Path, patterns: Sequence[str]) -> list[Submitted]:
    """Cancel the jobs whose titles match, and return them; raises UserError if there are none."""
    if not (work_dir / FOLDER).is_dir():
        raise UserError(
            f"Nothing was submitted from the work folder {work_dir}. Give the --work-dir that bench.run was given; "
            f"squeue --me lists your jobs, and scancel ends them."
        )
    now = queue()
    live = [j for j in submitted(work_dir).values() if now.state(j.job, j.when) != "ended"]
    chosen = [job for job in live if not patterns or any(_matches(job, p) for p in patterns)]
    if not chosen:
        titles = "; ".join(job.title for job in live[:5]) or "none"
        raise UserError(
            f"No queued or running job matches {' '.join(patterns) or 'the work folder'}. There are: {titles}."
        )
    ids = [job.job for job in chosen]
    note_cancelled(work_dir, ids)
    for start in range(0, len(ids), AT_ONCE):
        ask("scancel", *ids[start : start + AT_ONCE])
    return chosen


def _matches(job: Submitted, pattern: str) -> bool:
    return fnmatch.fnmatch(job.title, f"*{pattern}*")


if __name__ == "__main__":
    sys.exit(main())

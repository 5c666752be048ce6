"""Show the state of every run: done, running, queued, failed or lost, from the store, the work folder and squeue.

    python -m bench.status [--watch] [--all]

A job that ended without a record gets a failure record, with the cause found in its log.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.errors import UserError
from bench.records import Store
from bench.runs.state import ROWS, Watch, follow, table
from bench.slurm.jobs import FOLDER

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 0, or 1 if a run failed or was lost, or 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.status",
        description="Show the state of every run of a store and a work folder.",
        epilog="Exit status: 0 nothing failed or was lost, 1 something did, 2 wrong request.",
    )
    add = parser.add_argument
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="Read the records from here (default: results).",
    )
    add("--work-dir", type=Path, default=Path("runs"), metavar="DIR", help="Read logs from here (default: runs).")
    add("--watch", action="store_true", help="Refresh until no run is queued or running (default: no).")
    add("--all", action="store_true", help=f"Print every row (default: the first {ROWS}).")
    arguments = parser.parse_args(argv)
    try:
        return _main(arguments)
    except UserError as error:
        sys.stderr.write(f"bench.status: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nThe jobs continue. The same command shows them again.\n")
        return INTERRUPTED


def _main(arguments: argparse.Namespace) -> int:
    for flag, folder in (("--work-dir", arguments.work_dir), ("--results", arguments.results)):
        if not folder.is_dir() and not (flag == "--results" and (arguments.work_dir / FOLDER).is_dir()):
            raise UserError(
                f"{flag} {folder} is not a folder. Give the {flag} of the bench.run command; squeue --me lists your "
                f"jobs, which write their records into their store in any case."
            )
    watch = Watch(store=Store(arguments.results.resolve()), work_dir=arguments.work_dir.resolve())
    rows = follow(watch) if arguments.watch else watch.rows()
    Console().print(table(rows, None if arguments.all else ROWS))
    return FAILED if any(row.state in ("failed", "lost") for row in rows) else DONE


if __name__ == "__main__":
    sys.exit(main())

"""What became of every run: done, running, queued, failed, lost. Reads the store, the work folder and squeue.

    python -m bench.status [--watch] [--all]

A job that ended without a record gets one here that says what happened, from its log.
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
    """Show; return 0, 1 where something failed or was lost, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.status",
        description="What became of every run of a store and a work folder.",
        epilog="Exit status: 0 nothing failed or was lost, 1 something did, 2 wrong request.",
    )
    add = parser.add_argument
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="the store of records")
    add("--work-dir", type=Path, default=Path("runs"), metavar="DIR", help="logs and checkpoints")
    add("--watch", action="store_true", help="until nothing runs or waits; Ctrl-C leaves")
    add("--all", action="store_true", help=f"every row, not the first {ROWS}")
    arguments = parser.parse_args(argv)
    try:
        return _main(arguments)
    except UserError as error:
        sys.stderr.write(f"bench.status: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nThe jobs go on. The same command shows them again.\n")
        return INTERRUPTED


def _main(arguments: argparse.Namespace) -> int:
    for flag, folder in (("--work-dir", arguments.work_dir), ("--results", arguments.results)):
        if not folder.is_dir() and not (flag == "--results" and (arguments.work_dir / FOLDER).is_dir()):
            raise UserError(
                f"{flag} {folder} is no folder, so what was run from there is not known. Give the folder that "
                f"bench.run was given; squeue --me lists your jobs, and those that end well are in their store all the "
                f"same."
            )
    watch = Watch(store=Store(arguments.results.resolve()), work_dir=arguments.work_dir.resolve())
    rows = follow(watch) if arguments.watch else watch.rows()
    Console().print(table(rows, None if arguments.all else ROWS))
    return FAILED if any(row.state in ("failed", "lost") for row in rows) else DONE


if __name__ == "__main__":
    sys.exit(main())

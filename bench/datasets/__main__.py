"""Data sets: what there is, how each is laid out, whether a folder is one, and pictures of it.

python -m bench.datasets list | layout NAME | check NAME | sample NAME | prepare NAME
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.datasets import catalogue, check
from bench.errors import UserError

DONE, WRONG_DATA, WRONG, INTERRUPTED = 0, 1, 2, 130
WIDE = 300  # characters of the list in a file
COLUMNS = ("name", "tasks", "licence", "size", "items", "at the data root", "source")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 as it should be, 1 something is wrong with the data, 2 wrong request."""
    given = _parser().parse_args(argv)
    try:
        return COMMANDS[given.command](given)
    except UserError as error:
        sys.stderr.write(f"bench.datasets: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; the same command goes on from there.\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.datasets",
        description="Data sets: which there are, how each is laid out, and whether a folder is one.",
        epilog="Exit status: 0 as it should be, 1 something is wrong with the data, 2 wrong request.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "list": "every data set: tasks, licence, size, items, whether it is there, where it comes from",
        "layout": "the folders and files expected",
        "check": "counts, lists, labels, and images that open",
        "sample": "a picture of a few items with their labels",
        "prepare": "tar files of images of 256 pixels, for large sets",
    }
    for name, said in helps.items():
        command = commands.add_parser(name, help=said, description=said)
        command.add_argument("--data-root", type=Path, metavar="DIR", help="default $BENCH_DATA")
        if name != "list":
            command.add_argument("name", help="a data set (coco), a task (pose/coco), a group (k12)")
        if name == "check":
            command.add_argument("--full", action="store_true", help="open every item, in parallel")
        if name in ("sample", "prepare"):
            command.add_argument("--out", type=Path, metavar="PATH", required=name == "prepare")
    return parser


def _data_root(given: argparse.Namespace) -> Path | None:
    told = given.data_root or (os.environ.get("BENCH_DATA") and Path(os.environ["BENCH_DATA"]))
    if told and not told.is_dir():
        raise UserError(f"The data root {told} is no folder. Give the folder that holds the data sets.")
    return told or None


def _list(given: argparse.Namespace) -> int:
    found = Table(*COLUMNS, box=box.SIMPLE)
    for row in catalogue.table(catalogue.entries(), _data_root(given)):
        found.add_row(*row)
    Console(width=None if Console().is_terminal else WIDE).print(found)
    return DONE


def _layout(given: argparse.Namespace) -> int:
    for entry in catalogue.find(given.name):
        sys.stdout.write(catalogue.layout(entry))
    return DONE


def _check(given: argparse.Namespace) -> int:
    root, found = _data_root(given), catalogue.find(given.name)
    absent: dict[str, UserError] = {}
    there: set[str] = set()
    status = DONE
    for entry in found:
        start = time.monotonic()
        sys.stdout.write(f"{entry.dataset.name} ({entry.names})\n")
        try:
            for finding in check.check(entry, root, full=given.full):
                mark = "WRONG " if finding.wrong else ""
                sys.stdout.write(f"  {mark}{finding.what}: {finding.message}\n")
                status = WRONG_DATA if finding.wrong else status
            there.add(entry.dataset.name)
        except UserError as error:
            absent.setdefault(entry.dataset.name, error)
            sys.stdout.write(f"  missing: {catalogue.first_sentence(error)}\n")
        sys.stdout.write(f"  {time.monotonic() - start:.1f} s\n")
    if not there:
        raise next(iter(absent.values()))
    lacking = [name for name in absent if name not in there]  # coco without persons is still coco
    if lacking:
        of = len({entry.dataset.name for entry in found})
        sys.stdout.write(f"{len(lacking)} of {of} data sets are not there: {', '.join(lacking)}\n")
        return WRONG_DATA
    return status


def _sample(given: argparse.Namespace) -> int:
    from bench.datasets import sample

    path = given.out or Path(f"{given.name.replace('/', '-')}.png")
    sample.sample(catalogue.find(given.name), _data_root(given), path)
    sys.stdout.write(f"{path}\n")
    return DONE


def _prepare(given: argparse.Namespace) -> int:
    from bench.datasets import prepare

    for said in prepare.prepare(catalogue.find(given.name), _data_root(given), given.out):
        sys.stdout.write(f"{said}\n")
    return DONE


COMMANDS = {"list": _list, "layout": _layout, "check": _check, "sample": _sample, "prepare": _prepare}

if __name__ == "__main__":
    sys.exit(main())

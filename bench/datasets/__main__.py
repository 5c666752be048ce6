"""Data sets: which there are, the layout of each, whether a folder is complete, pictures, and smaller copies.

python -m bench.datasets list | layout NAME | check NAME | sample NAME | prepare NAME
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.datasets import catalogue, check
from bench.errors import UserError

DONE, WRONG_DATA, WRONG, INTERRUPTED = 0, 1, 2, 130
WIDTH = 120  # characters of a line of the list


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if all is well, 1 if something is wrong with the data, 2 for a wrong request."""
    given = _parser().parse_args(argv)
    try:
        return COMMANDS[given.command](given)
    except UserError as error:
        sys.stderr.write(f"bench.datasets: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command again to resume.\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.datasets",
        description="List data sets, show the layout of one, and check, draw or prepare the one you have.",
        epilog="Exit status: 0 if all is well, 1 if something is wrong with the data, 2 if the request was wrong.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "list": "List every data set on one line.",
        "layout": "Show the folders and files of a data set, its licence, and where to get it.",
        "check": "Compare counts and lists with the official ones, and open the labels and some images.",
        "sample": "Draw a few items of every split with their labels, as a PNG.",
        "prepare": "Copy a large set of images into tar files, resized to 256 pixels.",
    }
    outs = {
        "sample": "The PNG to write (default: NAME.png in the current folder).",
        "prepare": "The folder to write; tasks find it as NAME below another data root.",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--data-root", type=Path, metavar="DIR", help="The folder of your data sets (default: $BENCH_DATA)."
        )
        if name != "list":
            command.add_argument("name", help="A data set (coco), a task (pose/coco) or a group (k12).")
        if name == "check":
            command.add_argument("--full", action="store_true", help="Open every item, in parallel (default: a few).")
        if name in outs:
            command.add_argument("--out", type=Path, metavar="PATH", required=name == "prepare", help=outs[name])
    return parser


def _data_root(given: argparse.Namespace) -> Path | None:
    variable = os.environ.get("BENCH_DATA")
    root: Path | None = given.data_root or (Path(variable) if variable else None)
    if root and not root.is_dir():
        raise UserError(f"The data root {root} is not a folder. Give the folder that your data sets are in.")
    return root


def _list(given: argparse.Namespace) -> int:
    root = _data_root(given)
    rows = [catalogue.COLUMNS, *catalogue.table(catalogue.entries(), root)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        sys.stdout.write(f"{line if len(line) <= WIDTH else f'{line[: WIDTH - 3]}...'}\n")
    hint = "" if root else "Give --data-root DIR to see which of them you have. "
    sys.stdout.write(f"\n{hint}Licence and source in full: python -m bench.datasets layout NAME\n")
    return DONE


def _layout(given: argparse.Namespace) -> int:
    for entry in catalogue.find(given.name):
        sys.stdout.write(catalogue.layout(entry))
    return DONE


def _check(given: argparse.Namespace) -> int:
    root, found = _data_root(given), catalogue.find(given.name)
    absent: dict[str, UserError] = {}
    present: set[str] = set()
    status = DONE
    for entry in found:
        start = time.monotonic()
        sys.stdout.write(f"{entry.dataset.name} ({entry.names})\n")
        try:
            for finding in check.check(entry, root, full=given.full):
                mark = "WRONG " if finding.wrong else ""
                sys.stdout.write(f"  {mark}{finding.what}: {finding.message}\n")
                status = WRONG_DATA if finding.wrong else status
            present.add(entry.dataset.name)
        except UserError as error:
            absent.setdefault(entry.dataset.name, error)
            sys.stdout.write(f"  missing: {catalogue.first_sentence(error)}\n")
        sys.stdout.write(f"  {time.monotonic() - start:.1f} s\n")
    if not present:
        raise next(iter(absent.values()))
    # A coco that has only detection's files still counts as present.
    lacking = [name for name in absent if name not in present]
    if lacking:
        count = len({entry.dataset.name for entry in found})
        sys.stdout.write(f"{len(lacking)} of {count} data sets are missing: {', '.join(lacking)}\n")
        return WRONG_DATA
    return status


def _sample(given: argparse.Namespace) -> int:
    from bench.datasets import drawing

    path = given.out or Path(f"{given.name.replace('/', '-')}.png")
    drawing.sample(catalogue.find(given.name), _data_root(given), path)
    sys.stdout.write(f"{path}\n")
    return DONE


def _prepare(given: argparse.Namespace) -> int:
    from bench.datasets import prepare

    for line in prepare.prepare(catalogue.find(given.name), _data_root(given), given.out):
        sys.stdout.write(f"{line}\n")
    return DONE


COMMANDS = {"list": _list, "layout": _layout, "check": _check, "sample": _sample, "prepare": _prepare}

if __name__ == "__main__":
    sys.exit(main())

"""Compare two backbones: their difference in each task, with its interval and in words.

python -m leaderboards.compare A B [--results DIR]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError, unknown
from leaderboards.render import RESULTS, print_page
from leaderboards.standings import Row, Section, mode, read
from leaderboards.statistics import Difference, difference
from leaderboards.tables import MISSING, Table, arrow, decimals

HEAD = ["task", "protocol", "mode", "metric", "A", "B", "A - B", "n", "in words"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 (a record was left out) or 2 (wrong request)."""
    args = _parser().parse_args(argv)
    try:
        found = read(args.results)
        print_page(page(found.standings, args.a, args.b))
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    for message in found.broken:
        print(message, file=sys.stderr)  # noqa: T201
    return 1 if found.broken else 0


def page(standings: Sequence[Section], a: str, b: str) -> str:
    """Return the comparison as markdown, for the current digests that both have; raises UserError for a bad name."""
    current = [section for section in standings if not section.superseded_by]
    pairs = [(s, _find(s, a, standings), _find(s, b, standings)) for s in current]
    lines = [_line(s, one, two) for s, one, two in pairs if one is not None and two is not None]
    title = f"# A = {a}, B = {b}\n\n"
    if not lines:
        return f"{title}They have no task with the same protocol and digest in common.\n"
    return title + Table(head=HEAD, rows=lines, left=4).markdown()


def _find(section: Section, name: str, standings: Sequence[Section]) -> Row | None:
    """Return the row of a name, with or without @weights; raises UserError for an unknown or ambiguous name."""
    known = {_full(row): row.backbone for s in standings for row in s.rows}
    meant = [full for full, backbone in known.items() if name in (full, backbone)]
    if not meant:
        raise unknown("recorded backbone", name, known)
    if len(meant) > 1:
        raise UserError(f"{name} is ambiguous: {' and '.join(sorted(meant))}. Give one of these.")
    return next((row for row in section.rows if _full(row) == meant[0]), None)


def _full(row: Row) -> str:
    return f"{row.backbone}@{row.weights8}"


def _line(section: Section, one: Row, two: Row) -> list[str]:
    digits = decimals(section, section.primary)
    means = [row.metrics.get(section.primary) for row in (one, two)]
    found = difference(one.values(section.primary), two.values(section.primary))
    return [
        section.task,
        section.protocol["name"],
        mode(section.protocol),
        arrow(section),
        *(MISSING if mean is None else f"{mean.mean:.{digits}f}" for mean in means),
        f"{found.mean:+.{digits}f}" + ("" if found.half_width is None else f" ± {found.half_width:.{digits}f}"),
        f"{found.n} {'pairs' if found.paired else 'each'}",
        _words(section, found, digits),
    ]


def _words(section: Section, found: Difference, digits: int) -> str:
    if found.half_width is None:
        return "no interval: a single seed, or a value that is not finite"
    least, most = abs(found.mean) - found.half_width, abs(found.mean) + found.half_width
    if not found.excludes_zero:
        return f"no difference found; if there is one, it is below {most:.{digits}f}"
    first = (found.mean > 0) == (section.higher_is_better or not section.ranked)
    return f"{'A' if first else 'B'} is {'better' if section.ranked else 'larger'}, by {least:.{digits}f} or more"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leaderboards.compare",
        description="Print the difference of two backbones in every task that both have, with its 95 % interval."
        " Seeds that both have are compared in pairs.",
    )
    add = parser.add_argument
    add("a", metavar="A", help="name of the first backbone in the records; add @weights if the name is ambiguous")
    add("b", metavar="B", help="name of the second backbone")
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="records to read (default: leaderboards/results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The overview: backbones by tasks, with a mean rank over families.

Frozen and fine-tuned backbones, and the embedded world and real data, have tables of their own.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from leaderboards.replicates import scales
from leaderboards.standings import Row, Section, by_backbone, mode
from leaderboards.statistics import rank_intervals
from leaderboards.tables import (
    ANALYSES,
    CLAIMS,
    LEGEND,
    MARK,
    MISSING,
    Cell,
    Column,
    Table,
    arrow,
    best_first,
    decimals,
    escape_cell,
    fingerprint,
    name_cells,
    name_columns,
    number,
    page_name,
    primary_cell,
    rank_cell,
    section_column,
)

REPRODUCE = (
    "Reproduce a cell with `python -m bench.run --backbone NAME --task TASK --protocol PROTOCOL "
    "--seeds N`, then these pages with `python -m leaderboards.render --results results --out DIR`."
)
EMPTY = (
    "No results yet. `python -m bench.run --backbone NAME --task TASK` writes the first record, and "
    "`python -m leaderboards.render --results results --out DIR` turns the records into tables.\n"
)
MEAN_RANK = (
    "Mean rank is the mean over families of the mean rank over a family's columns, among the backbones that have every "
    "column of this table; in brackets, the same mean of the first and of the last ranks that the seeds leave possible."
)
Name = tuple[str, str]  # a row's backbone and weights


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table of the overview: current sections of one mode, on the embedded world or on real data."""

    mode: str
    embedded: bool
    sections: tuple[Section, ...]

    @property
    def title(self) -> str:
        """The heading of the table."""
        where = ", embedded world" if self.embedded else ""
        return f"{self.mode.capitalize()} backbones{where}"

    @property
    def common_n(self) -> int:
        """The number of seeds that most rows have."""
        counts = Counter(row.n for section in self.sections for row in section.rows)
        return max(counts.items(), key=lambda item: item[::-1])[0]

    def notes(self, ranks: Mapping[Name, str]) -> str:
        """Return the notes below the table."""
        seeds = f"n = {self.common_n} unless a cell gives another n."
        return f"{seeds} {MEAN_RANK}" if ranks else seeds


def blocks(standings: Iterable[Section]) -> list[Block]:
    """Return the overview's tables, one for each mode and kind of data."""
    current = [s for s in standings if s.is_current and s.ranked]
    made = [
        Block(
            mode=kind,
            embedded=embedded,
            sections=tuple(s for s in current if mode(s.protocol) == kind and s.task.endswith("/scenes") == embedded),
        )
        for kind, embedded in product(("fine-tuned", "frozen"), (True, False))
    ]
    return [block for block in made if block.sections]


def overview(standings: Sequence[Section], elsewhere: str | None = None) -> str:
    """Return the overview: backbones by tasks, current digests only.

    `elsewhere` is the page of published numbers that were not run here.
    """
    if not standings:
        return f"{MARK}# Leaderboards\n\n{EMPTY}"
    parts = [f"{MARK}# Leaderboards\n\n{LEGEND}\n"]
    for block in blocks(standings):
        ranks = mean_ranks(block.sections)
        table = matrix(block, ranks).markdown()
        parts += [f"## {block.title}\n", f"{table}\n{block.notes(ranks)}\n", columns(block.sections)]
    if any(s.failed for s in standings):
        parts += ["## Failed runs\n\n" + failures(standings)]
    if old := [s for s in standings if s.superseded_by]:
        parts += ["## Superseded\n\n" + "".join(map(superseded, old))]
    if any(not s.ranked for s in standings):
        parts += [f"Analyses of the features: [analyses]({ANALYSES}).\n"]
    if scales(standings):
        parts += [f"Tests of two papers' claims about masked image modelling: [claims]({CLAIMS}).\n"]
    if elsewhere:
        parts += [f"[Published numbers that were not run here]({elsewhere}) are never ranked with these.\n"]
    return "\n".join([*parts, REPRODUCE + "\n"])


def matrix(block: Block, ranks: Mapping[Name, str]) -> Table:
    """Return backbones by sections, each cell the primary metric; with the mean rank, if there is one."""
    head = name_columns("ascending")
    head += [Column(name="mean rank", kind="number")] if ranks else []
    head += [section_column(s, arrow(s), first=best_first(s), task=s.task) for s in block.sections]
    lines, common = [], block.common_n
    for name, rows in by_backbone(block.sections).items():
        cells = name_cells(next(filter(None, rows)))
        cells += [_rank_cell(ranks.get(name))] if ranks else []
        cells += [_cell(s, row, common) for s, row in zip(block.sections, rows, strict=True)]
        lines.append(cells)
    return Table(head=head, rows=lines, left=3)


def _rank_cell(mean_rank: str | None) -> Cell:
    return Cell(text=mean_rank, value=float(mean_rank.split()[0])) if mean_rank else Cell(text=MISSING)


def _cell(section: Section, row: Row | None, common: int) -> Cell:
    """Return the primary metric of a row, with n if it differs from the table's `common` one, and with its rank."""
    if row is None:
        return Cell(text=MISSING)
    cell = primary_cell(section, row)
    note = "" if row.n == common else f" (n = {row.n})"
    remark = f"rank {rank_cell(row).text} of {len(section.rows)}" if row.rank else ""
    return replace(cell, text=cell.text + note, remark=remark)


def mean_ranks(standings: Sequence[Section]) -> dict[Name, str]:
    """Return the mean rank (first to last possible) of each backbone that has every section; {} for fewer than two.

    Ranks are computed among these backbones only, since ranks among different competitors are not comparable.
    """
    complete = set.intersection(*({row.key for row in s.rows} for s in standings))
    if len(complete) < 2:
        return {}
    triples: dict[Name, dict[str, list[tuple[float, int, int]]]] = {n: {} for n in complete}
    for section in standings:
        rows = [row for row in section.rows if row.key in complete]
        family = section.task.partition("/")[0]
        for row, triple in zip(rows, _ranks(section, rows), strict=True):
            triples[row.key].setdefault(family, []).append(triple)
    return {name: _mean_rank(list(families.values())) for name, families in triples.items()}


def _ranks(section: Section, rows: Sequence[Row]) -> Iterator[tuple[float, int, int]]:
    """Yield each row's rank (equal means share theirs) and its first and last possible rank; not finite is last."""
    sign = 1 if section.higher_is_better else -1
    means = [sign * row.metrics[section.primary].mean if row.rank else -math.inf for row in rows]
    ordered = sorted(means)
    possible = [row.rank for row in rows]
    if len(rows) < len(section.rows):
        values = [row.values(section.primary) for row in rows]
        possible = rank_intervals(values, higher_is_better=section.higher_is_better)
    for mean, interval in zip(means, possible, strict=True):
        better = len(rows) - bisect_right(ordered, mean)
        equal = len(rows) - better - bisect_left(ordered, mean)
        yield (better + (equal + 1) / 2, *(interval or (len(rows), len(rows))))


def _mean_rank(families: Sequence[Sequence[tuple[float, int, int]]]) -> str:
    each = [[fmean(column) for column in zip(*triples, strict=True)] for triples in families]
    mean, first, last = (fmean(column) for column in zip(*each, strict=True))
    return f"{mean:.2f} ({first:.1f}\N{EN DASH}{last:.1f})"


def columns(standings: Sequence[Section]) -> str:
    """List the digest and data behind each column of the overview."""
    lines = [
        f"- {s.task}, {escape_cell(s.protocol['name'])}: digest `{s.digest[:8]}`, data fingerprint {fingerprint(s)}\n"
        for s in standings
    ]
    return "".join(lines)


def failures(standings: Sequence[Section]) -> str:
    """Count the failed runs of each task, linked to the page that lists them."""
    counts = Counter({s.task: 0 for s in standings})
    for section in standings:
        counts[section.task] += len(section.failed)
    return "".join(f"- [{task}]({page_name(task)}): {count} failed\n" for task, count in counts.items() if count)


def superseded(section: Section) -> str:
    """Return a line about a section whose digest is not the current one."""
    new = (section.superseded_by or "")[:8]
    return (
        f"- [{section.task}]({page_name(section.task)}) {escape_cell(section.protocol['name'])}: digest "
        f"`{section.digest[:8]}`, {len(section.rows)} backbones, superseded by `{new}`\n"
    )


# The small table in a README: backbones by families, fine-tuned on the embedded world.

MAX_WIDTH = 120  # characters in a line; intervals are dropped from wider tables
MAX_ROWS = 8


def extract(standings: Sequence[Section], link: str) -> str:
    """Return a small table of the backbones that have every family's `finetune` result on the embedded world.

    Only backbones that have a card are in it, the best mean place first. `link` leads to the overview.
    """
    found = [s for s in standings if s.is_current and s.ranked and s.protocol["name"] == "finetune"]
    found = [s for s in found if s.task.endswith("/scenes")]
    by_name = [{row.key: row for row in s.rows if row.has_card} for s in found]
    complete = set.intersection(*map(set, by_name)) if by_name else set()
    if not complete:
        return f"No backbone has been fine-tuned in every family of the embedded world yet. All results: {link}.\n"
    places = {name: sum([*rows].index(name) for rows in by_name) for name in complete}
    names = sorted(complete, key=lambda name: (places[name], name))[:MAX_ROWS]
    rows = [[by_key[name] for by_key in by_name] for name in names]
    table = _short_table(found, rows, intervals=True)
    if len(table.partition("\n")[0]) > MAX_WIDTH:
        table = _short_table(found, rows, intervals=False)
    return (
        f"{table}\nFine-tuned on the embedded world; the columns are {', '.join(map(arrow, found))}.\n"
        "**Bold** is the best mean of the column; ± is the 95 % interval over seeds (none for a single seed).\n"
        f"All results: {link}.\n"
    )


def _short_table(sections: Sequence[Section], rows: Sequence[Sequence[Row]], *, intervals: bool) -> str:
    """Return a table of backbones by sections."""
    columns = []
    for section, column in zip(sections, zip(*rows, strict=True), strict=True):
        best, digits = min(map(section.rows.index, column)), decimals(section, section.primary)
        shown = [row.metrics[section.primary] for row in column]
        shown = shown if intervals else [replace(interval, half_width=None) for interval in shown]
        texts = [number(interval, digits) for interval in shown]
        columns.append([f"**{t}**" if row is section.rows[best] else t for row, t in zip(column, texts, strict=True)])
    head = ["backbone", *(section.task.partition("/")[0] for section in sections)]
    names = [escape_cell(row.backbone) for row, *_ in rows]
    return Table(head=head, rows=list(zip(names, *columns, strict=True)), left=1).markdown()

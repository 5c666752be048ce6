"""The markdown pages: an overview, a page for each task, a card for each backbone, and few-image pretraining."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from statistics import fmean
from typing import Any

from bench.records import Result, weights8
from leaderboards import published
from leaderboards.claims_page import scales
from leaderboards.published import Published
from leaderboards.standings import Row, Section, by_backbone, mode
from leaderboards.statistics import mean_interval, rank_intervals
from leaderboards.tables import (
    ANALYSES,
    CLAIMS,
    COST_COLUMNS,
    LEGEND,
    MARK,
    MISSING,
    OVERVIEW,
    Cell,
    Column,
    Table,
    arrow,
    best_first,
    card_name,
    cost_cells,
    decimals,
    distinct,
    escape_cell,
    fingerprint,
    metric_cell,
    name_cells,
    name_columns,
    number,
    page_name,
    primary_cell,
    rank_cell,
    section_column,
)

# The overview: backbones by tasks, with a mean rank over families. Frozen and fine-tuned backbones, and the embedded
# world and real data, have tables of their own.

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
        return f"{self.mode.capitalize()} backbones{', embedded world' if self.embedded else ''}"

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
    found = []
    for kind, embedded in product(("fine-tuned", "frozen"), (True, False)):
        own = tuple(s for s in current if mode(s.protocol) == kind and s.task.endswith("/scenes") == embedded)
        found += [Block(mode=kind, embedded=embedded, sections=own)] if own else []
    return found


def overview(standings: Sequence[Section], elsewhere: str | None = None) -> str:
    """Return the overview; `elsewhere` is the page of published numbers that were not run here."""
    if not standings:
        return f"{MARK}# Leaderboards\n\n{EMPTY}"
    parts = [f"{MARK}# Leaderboards\n\n{LEGEND}\n"]
    for block in blocks(standings):
        ranks = mean_ranks(block.sections)
        table = matrix(block, ranks).markdown()
        parts += [f"## {block.title}\n", f"{table}\n{block.notes(ranks)}\n", columns(block.sections)]
    if failed := Counter(section.task for section in standings for _ in section.failed):
        lines = (f"- [{task}]({page_name(task)}): {count} failed\n" for task, count in failed.items())
        parts += ["## Failed runs\n\n" + "".join(lines)]
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
        if rank := ranks.get(name):
            cells.append(Cell(text=rank, value=float(rank.split()[0])))
        elif ranks:
            cells.append(Cell(text=MISSING))
        lines.append([*cells, *(_cell(s, row, common) for s, row in zip(block.sections, rows, strict=True))])
    return Table(head=head, rows=lines, left=3)


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
    return "".join(
        f"- {s.task}, {escape_cell(s.protocol['name'])}: digest `{s.digest[:8]}`, data fingerprint {fingerprint(s)}\n"
        for s in standings
    )


def superseded(section: Section) -> str:
    """Return a line about a section whose digest is not the current one."""
    name = f"[{section.task}]({page_name(section.task)}) {escape_cell(section.protocol['name'])}"
    new, count = (section.superseded_by or "")[:8], len(section.rows)
    return f"- {name}: digest `{section.digest[:8]}`, {count} backbones, superseded by `{new}`\n"


# The page of a task.


def task_pages(standings: Sequence[Section], numbers: Sequence[Published] = ()) -> dict[str, str]:
    """Return a page for each task: current sections, superseded ones, numbers published elsewhere."""
    pages, elsewhere = {}, dict(published.by_task(numbers))
    for task, group in groupby(standings, key=lambda section: section.task):
        parts = [f"{MARK}# {task}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n"]
        parts += map(task_section, sorted(group, key=lambda section: section.superseded_by is not None))
        if others := elsewhere.get(task):
            table = published.published_table(others).markdown()
            parts += [f"## {published.TITLE}\n\n{published.NOTE}\n\n{table}"]
        pages[page_name(task)] = "\n".join(parts)
    return pages


def task_section(section: Section) -> str:
    """Return one section: heading, provenance, table, failures."""
    kind, old = f"{mode(section.protocol)} backbone", " (superseded)" if section.superseded_by else ""
    head = f"## {escape_cell(section.protocol['name'])}: {kind}, digest `{section.digest[:8]}`{old}\n"
    table = task_table(section).markdown() if section.rows else "No run has finished.\n"
    listed = "".join(f"- {remark}\n" for remark in remarks(section))
    return "\n".join(filter(None, (head, provenance(section), table, listed)))


def provenance(section: Section) -> str:
    """List the protocol, data, splits, selection and digest behind a section's numbers."""
    results, protocol = section.results, section.protocol
    splits = distinct(result.selection.get("reported_on") for result in results)
    lines = [
        f"- protocol: {escape_cell(protocol['source'])}; expected: {escape_cell(protocol['expected'])}",
        f"- data: {distinct(r.data['name'] for r in results)}, fingerprint {fingerprint(section)}",
        f"- reported on: {splits}; hyper-parameters chosen on: {distinct(map(selection, results))}",
        f"- task version {section.task_version}, digest `{section.digest}`",
    ]
    if str(protocol["name"]).endswith("-smoke"):
        lines += ["- **smoke**: a few images for one epoch; the numbers are not results"]
    if any((on := r.selection.get("selected_on")) and on == r.selection.get("reported_on") for r in results):
        lines += ["- **optimistic**: hyper-parameters were chosen on the split that is reported"]
    if section.superseded_by:
        new = section.superseded_by[:8]
        lines += [f"- **superseded** by digest `{new}`, which is newer; their numbers are not comparable"]
    return "\n".join(lines) + "\n"


def selection(result: Result) -> str:
    """Return on which split hyper-parameters were chosen, and among how many trials."""
    split, trials = (result.selection.get(key) for key in ("selected_on", "trials"))
    return f"{split} ({len(trials or ())} trials)" if split else "none, the protocol fixes all of them"


def task_table(section: Section) -> Table:
    """Return the table of one section: a row per backbone and weights, best first."""
    others = sorted({name for row in section.rows for name in row.metrics} - {section.primary})
    order = best_first(section)
    head = [
        *name_columns(),
        Column(name=arrow(section), kind="number", first=order, sorted=order),
        Column(name="rank", kind="number"),
        *(Column(name=escape_cell(name), kind="number", first="descending") for name in others),
        Column(name="n", kind="number", first="descending"),
        *COST_COLUMNS,
    ]
    rows = []
    for row in section.rows:
        cells = [primary_cell(section, row), rank_cell(row), *(metric_cell(section, row, name) for name in others)]
        rows.append([*name_cells(row), *cells, Cell(text=str(row.n), value=row.n), *cost_cells(row)])
    return Table(head=head, rows=rows, left=3)


def remarks(section: Section) -> Iterator[str]:
    """Yield a line for each failed run, and for each metric of a seed that is not finite (the mean is then nan)."""
    for result in section.failed:
        reason = next(iter((result.error or "no reason recorded").strip().splitlines()), "")
        yield f"failed: {_run_name(result)}: {escape_cell(reason)}"
    for row in section.rows:
        for result, name in product(row.results, row.metrics):
            if not math.isfinite(result.metrics.get(name, 0.0)):
                yield f"not finite: {_run_name(result)}: {escape_cell(name)}"


def _run_name(result: Result) -> str:
    return f"{escape_cell(result.backbone['name'])}@{weights8(result.backbone)} seed {result.seed}"


# A card for each backbone: what it is, how its weights were loaded, and all its numbers.

KEYS = ("matched", "missing", "unexpected", "resampled")
HEAD = ["task", "protocol", "mode", "metric", "value", "rank", "of", "digest", "n"]


def cards(standings: Sequence[Section]) -> dict[str, str]:
    """Return the cards as file name -> markdown."""
    found: dict[tuple[str, str], list[tuple[Section, Row]]] = defaultdict(list)
    for section in standings:
        for row in filter(lambda row: row.has_card, section.rows):
            found[row.key].append((section, row))
    return {card_name(numbers[0][1]): _card(numbers) for _, numbers in sorted(found.items())}


def _card(numbers: Sequence[tuple[Section, Row]]) -> str:
    result = numbers[0][1].results[0]
    header = result.backbone["pretraining"]
    lines = {
        "architecture": result.backbone["arch"],
        "method": result.backbone["method"],
        "weights": result.backbone["weights"],
        "SHA-256": result.backbone["weights_sha256"],
        "loading": _loading(result.load_report),
        **{f"header of the file: {key}": header[key] for key in sorted(header) if key != "pretraining"},
    }
    listed = "".join(f"- {key}: {escape_cell(value)}\n" for key, value in lines.items() if value)
    title = escape_cell(f"{result.backbone['name']}, {numbers[0][1].weights8}")
    head = f"{MARK}# {title}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n\n{listed}"
    rows = [_line(*number) for number in numbers]
    return f"{head}\n{Table(head=[*HEAD, *COST_COLUMNS], rows=rows, left=4).markdown()}"


def _loading(report: Mapping[str, Any]) -> str:
    """Count the matched, missing, unexpected and resampled keys."""
    counts = {key: report[key] for key in KEYS if report.get(key) is not None}
    return ", ".join(f"{len(n) if isinstance(n, list) else n} {key}" for key, n in counts.items())


def _line(section: Section, row: Row) -> list[Cell | str]:
    old = " (superseded)" if section.superseded_by else ""
    return [
        Cell(text=section.task, link=page_name(section.task)),
        escape_cell(section.protocol["name"]) + old,
        mode(section.protocol),
        arrow(section),
        primary_cell(section, row) if section.primary in row.metrics else MISSING,
        rank_cell(row),
        str(len(section.rows)),
        f"`{section.digest[:8]}`",
        str(row.n),
        *cost_cells(row),
    ]


# The few-image page: scores after pretraining on 1, 10, ... images, compared with scratch (Kong & Zhang, arXiv
# 2208.04164). It lists the backbones whose weights were pretrained with `--images`.

FEW_IMAGES = "few-images.md"
FEW_IMAGES_NOTE = (
    "Backbones pretrained on a few chosen images, repeated to the same number of updates. A cell is the mean over sets "
    "of images (a set's value is the mean over its evaluation seeds) ± the half-width of its 95 % t interval; a single "
    "set has no interval and does not show how much another set would differ. Scratch is the reference: the same "
    "architecture and protocol without pretraining."
)


@dataclass(frozen=True, kw_only=True, order=True)
class Series:
    """What the rows of one table share: all pretraining settings except the images."""

    method: str
    arch: str
    recipe: str
    data: str


def few_images_page(standings: Sequence[Section]) -> str | None:
    """Return the page as markdown; None if no record is of a backbone pretrained on few images."""
    current = [section for section in standings if section.is_current]
    found = {s for section in current for row in section.rows if (s := series(row)) is not None}
    if not found:
        return None
    head = f"{MARK}# Few-image pretraining\n\n[All tasks]({OVERVIEW}). {FEW_IMAGES_NOTE}\n"
    return "\n".join([head, *(_series_section(one, current) for one in sorted(found))])


def series(row: Row) -> Series | None:
    """Return the series of a row; None for a backbone that was not pretrained on few images."""
    settings = row.pretraining
    if settings.get("images") is None:
        return None
    method, recipe = settings["method"]["name"], settings["recipe"]["name"]
    return Series(method=method, arch=settings["arch"], recipe=recipe, data=settings["data"])


def _series_section(one: Series, current: Sequence[Section]) -> str:
    """Return the table of a series: a row for each number of images, a column for each task and protocol."""
    columns = {section.digest: _cells(one, section) for section in current}
    shown = [s for s in current if any(columns[s.digest])]
    counts = sorted({images for s in shown for images in columns[s.digest]})
    head: list[Column | str] = ["pretrained on", *(section_column(s, arrow(s)) for s in shown)]
    labels = {images: f"{images} images" for images in counts} | {0: "scratch", 1: "1 image"}
    rows = [[labels[images], *(columns[s.digest].get(images, MISSING) for s in shown)] for images in counts]
    title = f"{one.method}, {one.arch}, recipe {one.recipe}, {one.data}"
    return f"## {escape_cell(title)}\n\n{Table(head=head, rows=rows, left=1).markdown()}"


def _cells(one: Series, section: Section) -> dict[int, str]:
    """Return a section's cells by number of images; 0 is scratch."""
    means = defaultdict(list)
    for row in section.rows:
        backbone, metric = row.results[0].backbone, row.metrics.get(section.primary)
        if metric is None:
            continue
        if series(row) == one:
            means[int(row.pretraining["images"])].append(metric.mean)
        elif backbone["arch"] == one.arch and backbone["method"] == "scratch":
            means[0].append(metric.mean)
    digits = decimals(section, section.primary)
    sets = {images: f" ({len(values)} sets)" if len(values) > 1 else "" for images, values in means.items()}
    return {images: number(mean_interval(values), digits) + sets[images] for images, values in means.items()}

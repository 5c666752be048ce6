"""A page for each task: a section for each protocol and digest, current ones first."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bench.records import Result, weights8
from leaderboards import published
from leaderboards.published import Published
from leaderboards.standings import Row, Section, mode
from leaderboards.statistics import mean_interval
from leaderboards.tables import (
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


def task_pages(standings: Sequence[Section], numbers: Sequence[Published] = ()) -> dict[str, str]:
    """Return the pages as file name -> markdown, for every task that has a record."""
    return {
        page_name(task): task_page(task, list(group), [n for n in numbers if n.task == task])
        for task, group in groupby(standings, key=lambda section: section.task)
    }


def task_page(task: str, standings: Sequence[Section], numbers: Sequence[Published] = ()) -> str:
    """Return the page of one task: current sections, superseded ones, numbers published elsewhere."""
    ordered = sorted(standings, key=lambda section: section.superseded_by is not None)
    head = f"{MARK}# {task}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n"
    elsewhere = [f"## {published.TITLE}\n\n{published.listing(numbers)}"] if numbers else []
    return "\n".join([head, *map(task_section, ordered), *elsewhere])


def task_section(section: Section) -> str:
    """Return one section: heading, what the numbers stand on, table, failures."""
    name, old = section.protocol["name"], section.superseded_by
    kind = f"{mode(section.protocol)} backbone, digest `{section.digest[:8]}`"
    head = f"## {escape_cell(name)}: {kind}{' (superseded)' if old else ''}\n"
    parts = [head, provenance(section)]
    parts += [task_table(section).markdown() if section.rows else "No run has finished.\n"]
    remarks = [*map(failure, section.failed), *diverged(section)]
    parts += ["".join(f"- {remark}\n" for remark in remarks)] if remarks else []
    return "\n".join(parts)


def provenance(section: Section) -> str:
    """Say which protocol, data, split, selection and digest a section's numbers stand on."""
    results, protocol = section.results, section.protocol
    splits = distinct(result.selection.get("reported_on") for result in results)
    lines = [
        f"- protocol: {escape_cell(protocol['source'])}; expected: {escape_cell(protocol['expected'])}",
        f"- data: {distinct(r.data['name'] for r in results)}, fingerprint {fingerprint(section)}",
        f"- reported on: {splits}; hyper-parameters chosen on: {distinct(map(selection, results))}",
        f"- task version {section.task_version}, digest `{section.digest}`",
    ]
    if str(protocol["name"]).endswith("-smoke"):
        lines += ["- **smoke**: a few images for one epoch; the numbers mean nothing"]
    if any(optimistic(result) for result in results):
        lines += ["- **optimistic**: the split reported on also chose hyper-parameters"]
    if section.superseded_by:
        new = section.superseded_by[:8]
        lines += [f"- **superseded** by digest `{new}`, which is newer; the two do not compare"]
    return "\n".join(lines) + "\n"


def optimistic(result: Result) -> bool:
    """Say whether the split reported on also chose hyper-parameters."""
    chosen_on = result.selection.get("selected_on")
    return chosen_on is not None and chosen_on == result.selection.get("reported_on")


def selection(result: Result) -> str:
    """Say on which split hyper-parameters were chosen, among how many trials."""
    split, trials = (result.selection.get(key) for key in ("selected_on", "trials"))
    return f"{split} ({len(trials or ())} trials)" if split else "nothing, all are the protocol's"


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
    rows = [
        [
            *name_cells(row),
            primary_cell(section, row),
            rank_cell(row),
            *(metric_cell(section, row, name) for name in others),
            Cell(text=str(row.n), value=row.n),
            *cost_cells(row),
        ]
        for row in section.rows
    ]
    return Table(head=head, rows=rows, left=3)


def failure(result: Result) -> str:
    """Return one line on a failed run."""
    reason = next(iter((result.error or "no reason recorded").strip().splitlines()), "")
    return f"failed: {run_name(result)}: {escape_cell(reason)}"


def run_name(result: Result) -> str:
    """Name a run within its section: backbone, weights and seed."""
    return f"{escape_cell(result.backbone['name'])}@{weights8(result.backbone)} seed {result.seed}"


def diverged(section: Section) -> list[str]:
    """Name the seeds whose metric is not finite, and so made a whole cell nan."""
    return [
        f"not finite: {run_name(result)}: {escape_cell(name)}"
        for row in section.rows
        for result in row.results
        for name in row.metrics
        if not math.isfinite(result.metrics.get(name, 0.0))
    ]


# A card for each backbone: what it is, what became of its weights, and every number it has.

KEYS = ("matched", "missing", "unexpected", "resampled")
HEAD = ["task", "protocol", "backbone is", "metric", "value", "rank", "of", "digest", "n"]


def cards(standings: Sequence[Section]) -> dict[str, str]:
    """Return the cards as file name -> markdown."""
    found: dict[tuple[str, str], list[tuple[Section, Row]]] = defaultdict(list)
    for section in standings:
        for row in filter(lambda row: row.has_card, section.rows):
            found[row.backbone, row.weights8].append((section, row))
    return {card_name(numbers[0][1]): _card(numbers) for _, numbers in sorted(found.items())}


def _card(numbers: Sequence[tuple[Section, Row]]) -> str:
    result = numbers[0][1].results[0]
    told = result.backbone["pretraining"]
    lines = {
        "architecture": result.backbone["arch"],
        "method": result.backbone["method"],
        "weights": result.backbone["weights"],
        "SHA-256": result.backbone["weights_sha256"],
        "loading": _loading(result.load_report),
        **{f"file says: {key}": told[key] for key in sorted(told) if key != "pretraining"},
    }
    listed = "".join(f"- {key}: {escape_cell(value)}\n" for key, value in lines.items() if value)
    title = escape_cell(f"{result.backbone['name']}, {numbers[0][1].weights8}")
    head = f"{MARK}# {title}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n\n{listed}"
    rows = [_line(*number) for number in numbers]
    return f"{head}\n{Table(head=[*HEAD, *COST_COLUMNS], rows=rows, left=4).markdown()}"


def _loading(report: Mapping[str, Any]) -> str:
    """How many keys went where; lists are counted."""
    counts = {key: report.get(key) for key in KEYS}
    said = [
        f"{len(value) if isinstance(value, list) else value} {key}"
        for key, value in counts.items()
        if value is not None
    ]
    return ", ".join(said)


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


# The few-image table: what pretraining on 1, 10, ... images is worth, with scratch as the line to beat.
#
# After Kong & Zhang, arXiv 2208.04164: the set is repeated, so that all rows stand on as many updates. A
# backbone is in it if its weights file says that it saw a chosen few images (`--images`).

PAGE = "few-images.md"
NOTE = (
    "Backbones pretrained on a chosen few images, repeated to the same number of updates. A cell is the mean over "
    "sets of images (each the mean over its seeds of evaluation) ± the half-width of its 95 % t interval; a single "
    "set has none, and says nothing on how much another set would differ. Scratch is the line to beat: the same "
    "architecture and protocol without pretraining."
)


@dataclass(frozen=True, kw_only=True, order=True)
class Series:
    """What the rows of one table share: all of a pretraining but its images."""

    method: str
    arch: str
    recipe: str
    data: str


def page(standings: Sequence[Section]) -> str | None:
    """Return the page as markdown; None where no record is of a backbone pretrained on few images."""
    current = [section for section in standings if not section.superseded_by]
    found = {s for section in current for row in section.rows if (s := series(row)) is not None}
    if not found:
        return None
    head = f"{MARK}# Few-image pretraining\n\n[All tasks]({OVERVIEW}). {NOTE}\n"
    return "\n".join([head, *(_section(one, current) for one in sorted(found))])


def series(row: Row) -> Series | None:
    """Return the series a row belongs to; None for a backbone that saw no chosen few images."""
    told = row.pretraining
    if told.get("images") is None:
        return None
    return Series(method=told["method"]["name"], arch=told["arch"], recipe=told["recipe"]["name"], data=told["data"])


def _section(one: Series, current: Sequence[Section]) -> str:
    """One series: a row for each number of images, a column for each task and protocol."""
    columns = {section.digest: _cells(one, section) for section in current}
    shown = [s for s in current if any(columns[s.digest])]
    counts = sorted({images for s in shown for images in columns[s.digest]})
    head: list[Column | str] = ["pretrained on", *(section_column(s, arrow(s)) for s in shown)]
    rows = [[_label(images), *(columns[s.digest].get(images, MISSING) for s in shown)] for images in counts]
    title = f"{one.method}, {one.arch}, recipe {one.recipe}, {one.data}"
    return f"## {escape_cell(title)}\n\n{Table(head=head, rows=rows, left=1).markdown()}"


def _cells(one: Series, section: Section) -> dict[int, str]:
    """A section's cells by number of images; 0 is scratch."""
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
    return {images: _cell(values, digits) for images, values in means.items()}


def _cell(values: Sequence[float], digits: int) -> str:
    sets = f" ({len(values)} sets)" if len(values) > 1 else ""
    return number(mean_interval(values), digits) + sets


def _label(images: int) -> str:
    return "scratch" if images == 0 else "1 image" if images == 1 else f"{images} images"

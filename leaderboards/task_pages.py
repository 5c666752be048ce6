"""A page for each task: a section for each protocol and digest, current ones first."""

import math
from collections.abc import Sequence
from itertools import groupby

from bench.results import Result, weights8
from leaderboards import published
from leaderboards.markdown import (
    LEGEND,
    MARK,
    OVERVIEW,
    arrow,
    costs,
    distinct,
    escape,
    fingerprint,
    metric_cell,
    name_cells,
    page_name,
    primary_cell,
    rank_cell,
    table,
)
from leaderboards.published import Published
from leaderboards.standings import Section, mode


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
    head = f"## {escape(name)}: {kind}{' (superseded)' if old else ''}\n"
    parts = [head, provenance(section)]
    parts += [task_table(section) if section.rows else "No run has finished.\n"]
    remarks = [*map(failure, section.failed), *diverged(section)]
    parts += ["".join(f"- {remark}\n" for remark in remarks)] if remarks else []
    return "\n".join(parts)


def provenance(section: Section) -> str:
    """Say which protocol, data, split, selection and digest a section's numbers stand on."""
    results, protocol = section.results, section.protocol
    splits = distinct(result.selection.get("reported_on") for result in results)
    lines = [
        f"- protocol: {escape(protocol['source'])}; expected: {escape(protocol['expected'])}",
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


def task_table(section: Section) -> str:
    """Return the table of one section: a row per backbone and weights, best first."""
    names = {name for row in section.rows for name in row.metrics} - {section.primary}
    metrics = [section.primary, *sorted(names)]
    head = ["backbone", "method", "weights", arrow(section), "rank", *map(escape, metrics[1:])]
    head += ["n", "device-hours/run", "images/s", "waiting for data", "device"]
    rows = []
    for row in section.rows:
        others = [metric_cell(section, row, name) for name in metrics[1:]]
        cells = [primary_cell(section, row), rank_cell(row), *others, str(row.n), *costs(row)]
        rows += [[*name_cells(row), *cells]]
    return table(head, rows, left=3)


def failure(result: Result) -> str:
    """Return one line on a failed run."""
    reason = next(iter((result.error or "no reason recorded").strip().splitlines()), "")
    return f"failed: {run_name(result)}: {escape(reason)}"


def run_name(result: Result) -> str:
    """Name a run within its section: backbone, weights and seed."""
    return f"{escape(result.backbone['name'])}@{weights8(result.backbone)} seed {result.seed}"


def diverged(section: Section) -> list[str]:
    """Name the seeds whose metric is not finite, and so made a whole cell nan."""
    return [
        f"not finite: {run_name(result)}: {escape(name)}"
        for row in section.rows
        for result in row.results
        for name in row.metrics
        if not math.isfinite(result.metrics.get(name, 0.0))
    ]

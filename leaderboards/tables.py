"""Markdown from standings: a page per task, and an overview of all. Pure functions of the records.

The same records give the same bytes anywhere: no clock, no locale, everything sorted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, product

from bench.results import Result
from leaderboards.standings import Row, Section, mode, sections, weights8
from leaderboards.statistics import Interval, tie

MARK = "<!-- Written by python -m leaderboards.render; edits are lost. -->\n"
OVERVIEW = "README.md"
MISSING = "\N{EN DASH}"
LEGEND = (
    "Mean ± half-width of the 95 % t interval over n seeds; a single seed has no interval. "
    "**Bold** is the best mean; ≈ is a tie with it: equal means, or intervals that overlap "
    "(both with n ≥ 2). ↑ higher is better, ↓ lower is better."
)
REPRODUCE = (
    "Reproduce a cell with `python -m bench.run --backbone NAME --task TASK --protocol PROTOCOL "
    "--seeds N`, then these pages with `python -m leaderboards.render --results results --out DIR`."
)
EMPTY = (
    "No results yet. `python -m bench.run --backbone NAME --task TASK` writes the first record, and "
    "`python -m leaderboards.render --results results --out DIR` turns the records into tables.\n"
)


def tables(results: Iterable[Result]) -> dict[str, str]:
    """Return every page as file name -> markdown: the overview and one page per task."""
    standings = sections(results)
    pages = {OVERVIEW: overview(standings)}
    for task, group in groupby(standings, key=lambda section: section.task):
        pages[page_name(task)] = task_page(task, list(group))
    return pages


def page_name(task: str) -> str:
    """Return the file of a task: "pose/coco" -> "pose-coco.md"."""
    return task.replace("/", "-") + ".md"


def task_page(task: str, standings: Sequence[Section]) -> str:
    """Return the page of one task: current sections first, superseded ones after them."""
    ordered = sorted(standings, key=lambda section: section.superseded_by is not None)
    head = f"{MARK}# {task}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n"
    return "\n".join([head, *map(task_section, ordered)])


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


def fingerprint(section: Section) -> str:
    """Return the first eight digits of the data's fingerprint."""
    return distinct(str(result.data["fingerprint"] or "")[:8] for result in section.results)


def task_table(section: Section) -> str:
    """Return the table of one section: a row per backbone and weights, best first."""
    names = {name for row in section.rows for name in row.metrics} - {section.primary}
    metrics = [section.primary, *sorted(names)]
    head = ["backbone", "method", "weights", arrow(section), *map(escape, metrics[1:])]
    head += ["n", "device-hours/run", "images/s", "waiting for data", "device"]
    rows = []
    for row in section.rows:
        others = [metric_cell(section, row, name) for name in metrics[1:]]
        rows += [[*name_cells(row), primary_cell(section, row), *others, str(row.n), *costs(row)]]
    return table(head, rows, left=3)


def overview(standings: Sequence[Section]) -> str:
    """Return the overview: backbones by tasks, current digests only; modes, and real data, apart."""
    current = [section for section in standings if not section.superseded_by]
    if not current:
        return f"{MARK}# Leaderboards\n\n{EMPTY}"
    parts = [f"{MARK}# Leaderboards\n\n{LEGEND}\n"]
    for kind, embedded in product(("fine-tuned", "frozen"), (True, False)):
        chosen = [s for s in current if s.rows and mode(s.protocol) == kind]
        chosen = [s for s in chosen if s.task.endswith("/scenes") == embedded]
        if chosen:
            where = ", embedded world" if embedded else ""
            title = f"## {kind.capitalize()} backbones{where}\n"
            parts += [title, matrix(chosen), columns(chosen)]
    parts += (
        ["## Failed runs\n\n" + failures(standings)] if any(s.failed for s in standings) else []
    )
    return "\n".join([*parts, REPRODUCE + "\n"])


def matrix(standings: Sequence[Section]) -> str:
    """Return backbones by sections, each cell the primary metric, with the note on n."""
    cells = {(row.backbone, row.weights8): row for s in standings for row in s.rows}
    common, _ = max(
        Counter(row.n for s in standings for row in s.rows).items(), key=lambda item: item[::-1]
    )
    head = ["backbone", "method", "weights"]
    head += [
        f"[{s.task}]({page_name(s.task)}) {escape(s.protocol['name'])} {arrow(s)}"
        for s in standings
    ]
    rows = []
    for key in sorted(cells):
        found = [
            next((r for r in s.rows if (r.backbone, r.weights8) == key), None) for s in standings
        ]
        texts = [matrix_cell(s, row, common) for s, row in zip(standings, found, strict=True)]
        rows += [[*name_cells(cells[key]), *texts]]
    return table(head, rows, left=3) + f"\nn = {common} where a cell does not say otherwise.\n"


def matrix_cell(section: Section, row: Row | None, common: int) -> str:
    """Return the primary metric of a row, with n where it is not the table's `common` one."""
    if row is None:
        return MISSING
    note = "" if row.n == common else f" (n = {row.n})"
    return primary_cell(section, row) + note


def columns(standings: Sequence[Section]) -> str:
    """List the digest and data behind each column of the overview."""
    lines = [
        f"- {s.task}, {escape(s.protocol['name'])}: digest `{s.digest[:8]}`, "
        f"data fingerprint {fingerprint(s)}\n"
        for s in standings
    ]
    return "".join(lines)


def failures(standings: Sequence[Section]) -> str:
    """Count the failed runs of each task, with the page that names them."""
    counts = Counter({s.task: 0 for s in standings})
    for section in standings:
        counts[section.task] += len(section.failed)
    return "".join(
        f"- [{task}]({page_name(task)}): {count} failed\n"
        for task, count in counts.items()
        if count
    )


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


def arrow(section: Section) -> str:
    """Return the primary metric's name with its direction."""
    return f"{escape(section.primary)} {'↑' if section.higher_is_better else '↓'}"


def name_cells(row: Row) -> list[str]:
    """Return what identifies a row: backbone, pretraining method, weights."""
    return [escape(row.backbone), escape(row.method) or MISSING, row.weights8]


def primary_cell(section: Section, row: Row) -> str:
    """Return the primary metric, bold for the best row, ≈ for a row that ties with it."""
    text = metric_cell(section, row, section.primary)
    best, own = (r.metrics.get(section.primary) for r in (section.rows[0], row))
    if best is None or own is None or math.isnan(own.mean):
        return text
    if row is section.rows[0]:
        return f"**{text}**"
    return f"{text} ≈" if tie(best, own) else text


def metric_cell(section: Section, row: Row, name: str) -> str:
    """Return `mean ± half-width`, with n where it is not the row's."""
    interval = row.metrics.get(name)
    if interval is None:
        return MISSING
    note = "" if interval.n == row.n else f" (n = {interval.n})"
    return number(interval, decimals(section, name)) + note


def number(interval: Interval, digits: int) -> str:
    """Return `mean ± half-width` at fixed decimals; the mean alone where there is no interval."""
    if interval.half_width is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}"


def decimals(section: Section, name: str) -> int:
    """Return 2 for percentages, 4 for a column of small values (metres, indices)."""
    means = [row.metrics[name].mean for row in section.rows if name in row.metrics]
    largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=0.0)
    return 2 if largest >= 10 else 4


def costs(row: Row) -> list[str]:
    """Return mean device-hours a run, images a second, part of training spent waiting for images, devices."""
    hours = cost_mean(row, "device_hours", 4)
    speed = cost_mean(row, "images_per_second", 1)
    wait = cost_mean(row, "data_wait", 3)
    return [hours, speed, wait, distinct(result.cost.get("device") for result in row.results)]


def cost_mean(row: Row, key: str, digits: int) -> str:
    """Return the mean of a cost over the seeds that recorded it."""
    values = [result.cost[key] for result in row.results if result.cost.get(key) is not None]
    return f"{math.fsum(values) / len(values):.{digits}f}" if values else MISSING


def distinct(values: Iterable[object]) -> str:
    """Return the distinct values, sorted and joined; a dash where there is none."""
    texts = {escape(value) for value in values if value not in (None, "")}
    return "; ".join(sorted(texts)) or MISSING


def escape(text: object) -> str:
    """Return a text as one line of plain markdown that cannot end its table cell."""
    line = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in "\\|*`[]<>" else char for char in line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a markdown table, padded to be read raw; the first `left` columns are left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for cells in (head, rule, *rows):
        padded = (
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        lines += [f"| {' | '.join(padded)} |\n"]
    return "".join(lines)

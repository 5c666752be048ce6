"""The leaderboards as one web page: tables to sort and filter, a scatter plot, and the pictures of analyses.

`index.html` contains its style, script and data, requests nothing from a server, and opens from a folder. Its cells
are those of the markdown pages; equal records give equal bytes.
"""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from bench.errors import UserError
from bench.files import write_atomic
from bench.records import Result
from leaderboards import analyses, pages
from leaderboards.published import NOTE, TITLE, Published, by_task, published_table
from leaderboards.standings import Section, mode
from leaderboards.statistics import Interval
from leaderboards.tables import LEGEND, MARK, MISSING, exact, inline, metric_cell

# The data of the scatter plot: every metric and cost of the current sections, by backbone.

# Cost in a record: its name, its unit, and the factor from the recorded unit.
COST_MEASURES = {
    "device_hours": ("cost of a run", "device-hours", 1),
    "images_per_second": ("speed", "images/s", 1),
    "peak_memory_bytes": ("peak memory", "GiB", 2**30),
    "parameters": ("parameters", "millions", 10**6),
}
# Records have no units: these are the conventional ones, by the metric's name.
UNITS = {r"top\d+|mean_class_accuracy|[am]Acc|mIoU|(bbox_|mask_)?A[PR]\w*|PCK@.*|SUC|AO|SR\d+": "%", r"RMSE|SqRel": "m"}
Keys = Mapping[tuple[str, str], int]  # of a row's backbone and weights


def scatter_data(standings: Sequence[Section]) -> dict[str, Any]:
    """Return backbones, methods, measures and the first two to draw, as the page's script reads them."""
    current = [section for section in standings if section.is_current]
    rows = {row.key: row for section in current for row in section.rows}
    keys = {name: index for index, name in enumerate(sorted(rows))}
    count = Counter(name for name, _ in rows)
    measures = [m for section in current for m in _measures(section, keys) if m["values"]]
    return {
        "backbones": [
            {
                "label": "@".join(name) if count[name[0]] > 1 else name[0],
                "method": rows[name].method or MISSING,
                "search": f"{name[0]} {rows[name].method} {name[1]}".lower(),
            }
            for name in keys
        ],
        "methods": sorted({row.method or MISSING for row in rows.values()}),
        "measures": measures,
        "start": _start(measures),
    }


def _measures(section: Section, keys: Keys) -> Iterator[dict[str, Any]]:
    """Yield a section's metrics, the primary one first, then its costs."""
    group = f"{section.task}, {section.protocol['name']}"
    others = sorted({name for row in section.rows for name in row.metrics} - {section.primary})
    for name in (section.primary, *others):
        unit = next((unit for names, unit in UNITS.items() if re.fullmatch(names, name)), "")
        title = f"{name} ({unit})" if unit else name
        if name == section.primary and section.ranked:
            title += ", higher is better" if section.higher_is_better else ", lower is better"
        values = {
            keys[row.key]: _value(found, metric_cell(section, row, name).text)
            for row in section.rows
            if (found := row.metrics.get(name)) and math.isfinite(found.mean)
        }
        yield {"group": group, "name": name, "title": f"{title}: {group}", "cost": False, "values": values}
    for key, (name, unit, size) in COST_MEASURES.items():
        costs = {keys[row.key]: cost / size for row in section.rows if (cost := row.cost(key)) is not None}
        values = {key: _value(Interval(mean=x, half_width=None, n=1), f"{x:.4g}") for key, x in costs.items()}
        yield {"group": group, "name": name, "title": f"{name} ({unit}): {group}", "cost": True, "values": values}


def _value(interval: Interval, text: str) -> dict[str, Any]:
    half = None if interval.half_width is None else float(exact(interval.half_width))
    return {"mean": float(exact(interval.mean)), "half": half, "text": text}


def _start(measures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Choose the first section with the most backbones: its primary metric against its first cost."""
    if not measures:
        return {}
    sizes = [len(measure["values"]) for measure in measures]
    y = sizes.index(max(sizes))
    x = next((i for i, m in enumerate(measures) if m["cost"] and m["group"] == measures[y]["group"]), y)
    return {"x": x, "y": y}


# The chapters, as HTML.


def overview_chapter(standings: Sequence[Section]) -> str:
    """Return backbones by tasks, current digests only, a table for each mode and kind of data."""
    parts = []
    for block in pages.blocks(standings):
        title, ranks = block.title, pages.mean_ranks(block.sections)
        facts = bullets(inline(line.removeprefix("- ")) for line in pages.columns(block.sections).splitlines())
        parts += [
            f'<section class="filtered" data-mode="{block.mode}">\n<h3>{title}</h3>\n',
            pages.matrix(block, ranks).html(slug(title), f"{title} by task", "overview"),
            f'<p class="prose note">{inline(block.notes(ranks))}</p>\n',
            f"<details><summary>Digests and data of the columns</summary>\n{facts}</details>\n</section>\n",
        ]
    return "".join(parts) or f"<p>{inline(pages.EMPTY.strip())}</p>\n"


def analyses_chapter(standings: Sequence[Section]) -> str:
    """Return scalars by backbone, and their correlation with scores; "" without an analysis."""
    sections = [s for s in analyses.shown(standings) if not s.ranked]
    if not sections:
        return ""
    found = analyses.correlations(standings)
    head = '<h3 id="analyses-correlation">Correlation with downstream scores</h3>\n'
    notes = f'{head}<p class="prose note">{inline(analyses.tau_note(found))}</p>\n' if found else ""
    table = analyses.values_table(sections).html("analyses-values", "Analyses by backbone", "overview")
    parts = [f'<p class="prose note">{inline(analyses.VALUES)}</p>\n{table}{notes}']
    for one in found:
        parts += [f'<section class="filtered" data-mode="{one.mode}">\n<h4>{one.mode.capitalize()} backbones</h4>\n']
        if one.columns:
            ident = slug("analyses", one.mode)
            parts += [analyses.tau_table(one).html(ident, f"Kendall's tau-b, {one.mode}")]
        if few := ", ".join(f"{name} (n = {n})" for name, n in one.too_few.items()):
            parts += [f'<p class="prose note">{escape(f"{analyses.TOO_FEW}: {few}.")}</p>\n']
        parts += ["</section>\n"]
    return "".join(parts)


def tasks_chapter(standings: Sequence[Section]) -> str:
    """Return a part for each task: current sections first, superseded ones after them."""
    parts = []
    for task, group in groupby(standings, key=lambda section: section.task):
        ordered = sorted(group, key=lambda section: section.superseded_by is not None)
        head = f'<h3 id="{slug("task", task)}">{escape(task)}</h3>\n'
        body = "".join(map(_section, ordered))
        parts.append(f'<section class="filtered" data-task="{escape(task)}">\n{head}{body}</section>\n')
    return "".join(parts)


def _section(section: Section) -> str:
    """Return one protocol and digest: the table, failures and provenance."""
    kind, old = mode(section.protocol), " (superseded)" if section.superseded_by else ""
    title = f"{escape(section.protocol['name'])}: {kind} backbone, digest <code>{section.digest[:8]}</code>{old}"
    facts = [line.removeprefix("- ") for line in pages.provenance(section).splitlines()]

    caption = escape(f"{_name(section)}, {'best' if section.ranked else 'highest'} first")
    table = pages.task_table(section).html(_ident(section), caption) if section.rows else "<p>No run has finished.</p>"
    return (
        f'<section class="filtered" data-task="{escape(section.task)}" data-mode="{kind}">\n'
        f'<h4 id="{_ident(section)}">{title}</h4>\n{table}\n'
        f"{bullets(map(inline, pages.remarks(section)), 'remarks failed')}{bullets(map(inline, facts))}</section>\n"
    )


def _name(section: Section) -> str:
    return f"{section.task}, {section.protocol['name']}, digest {section.digest[:8]}"


def _ident(section: Section) -> str:
    return slug(section.task, section.protocol["name"], section.digest[:8])


def published_chapter(numbers: Sequence[Published]) -> str:
    """Return the published numbers by task, with protocol and source; "" for none."""
    parts = []
    for task, group in by_task(numbers):
        table = published_table(group).html(slug("published", task), f"{escape(task)}, published, not run here")
        head = f'<section class="filtered" data-task="{escape(task)}">\n<h3>{escape(task)}</h3>\n'
        parts.append(f"{head}{table}</section>\n")
    return f'<p class="prose">{inline(NOTE)}</p>\n{"".join(parts)}' if parts else ""


def failed_chapter(standings: Sequence[Section]) -> str:
    """Return a line for each section with failed runs; "" for none."""
    return bullets(f"{_link(s)}: {len(s.failed)} failed" for s in standings if s.failed)


def superseded_chapter(standings: Sequence[Section]) -> str:
    """Return a line for each section whose digest is not the current one; "" for none."""
    return bullets(
        f"{_link(s)}: {len(s.rows):,} backbone{'' if len(s.rows) == 1 else 's'}, "
        f"superseded by <code>{s.superseded_by[:8]}</code>"
        for s in standings
        if s.superseded_by
    )


def _link(section: Section) -> str:
    return f'<a href="#{_ident(section)}">{escape(_name(section))}</a>'


def bullets(lines: Iterable[str], kind: str = "remarks") -> str:
    """Return a list of HTML lines; "" for none."""
    items = "".join(f"<li>{line}</li>\n" for line in lines)
    return f'<ul class="{kind}">\n{items}</ul>\n' if items else ""


def slug(*texts: str) -> str:
    """Return an identifier for texts."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(texts)).strip("-")


# The page.

PAGE = "index.html"
PICTURES = "pictures"
ASSETS = Path(__file__).with_name("page")
SCRIPTS = ("tables.js", "scatter.js")  # in one module: the second draws what the first filters


def write(
    standings: Sequence[Section],
    published: Sequence[Published],
    out: Path,
    pictures: Mapping[Path, Result] = MappingProxyType({}),
) -> list[Path]:
    """Write the page and copy the records' `pictures`; return the files.

    Raises UserError if `out` has an index.html that this function did not write.
    """
    page = out / PAGE
    if page.exists() and MARK not in page.read_text("utf-8", errors="replace")[:200]:
        raise UserError(
            f"{page} was not written by this command and would be overwritten. "
            f"Give another folder with --html DIR, or move that file."
        )
    out.mkdir(parents=True, exist_ok=True)
    copies = {path: out / picture_place(path) for path in pictures}
    for path, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    write_atomic(page, html(standings, published, pictures))
    return [page, *copies.values()]


def picture_place(path: Path) -> Path:
    """Return a picture's place in the page's folder: the same as among the records."""
    return Path(PICTURES, *path.parts[-4:])


def html(
    standings: Sequence[Section],
    published: Sequence[Published] = (),
    pictures: Mapping[Path, Result] = MappingProxyType({}),
) -> str:
    """Return the page as one text."""
    tasks = sorted({section.task for section in standings})
    every = {*tasks, *(number.task for number in published)}
    data, plot = scatter_data(standings), (ASSETS / "scatter.html").read_text("utf-8")
    parts = {
        ("overview", "Overview"): overview_chapter(standings),
        ("analyses", "Analyses"): analyses_chapter(standings),
        ("scatter", "One measure against another"): plot if data["measures"] else "",
        ("tasks", "Tasks"): tasks_chapter(standings),
        ("published", TITLE): published_chapter(published),
        ("failed", "Failed runs"): failed_chapter(standings),
        ("superseded", "Superseded"): superseded_chapter(standings),
        ("pictures", "Pictures of analyses"): "".join(_figure(*one) for one in pictures.items()),
    }
    links = [(ident, title) for (ident, title), body in parts.items() if body]
    return Template((ASSETS / "index.html").read_text("utf-8")).substitute(
        mark=MARK.strip(),
        style=(ASSETS / "style.css").read_text("utf-8"),
        script="".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS),
        legend=inline(LEGEND),
        contents=_contents(links) + _contents((slug("task", task), task) for task in tasks),
        tasks="".join(f"<option>{escape(task)}</option>\n" for task in sorted(every)),
        main="".join(_chapter(ident, title, body) for (ident, title), body in parts.items()),
        reproduce=inline(pages.REPRODUCE),
        # "</script>" or "<!--" in a name must not end the element.
        data=json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    )


def _contents(links: Iterable[tuple[str, str]]) -> str:
    return bullets((f'<a href="#{ident}">{escape(title)}</a>' for ident, title in links), "contents")


def _chapter(ident: str, title: str, body: str) -> str:
    head = f'<section id="{ident}" aria-labelledby="{ident}-title">\n<h2 id="{ident}-title">{title}</h2>\n'
    return f"{head}{body}</section>\n" if body else ""


def _figure(path: Path, result: Result) -> str:
    subject = re.sub(r"[-_.]+", " ", path.stem.partition("-seed")[2].lstrip("0123456789")).strip()
    run = f"{result.backbone['name']} on {result.task}, {result.protocol['name']}, seed {result.seed}"
    text = f"{subject or 'Picture'} of {run}"
    source = "/".join(picture_place(path).parts)
    image = f'<img src="{escape(quote(source))}" alt="{escape(text)}" loading="lazy">'
    return f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>\n"

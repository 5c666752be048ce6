"""Cells and tables as markdown. Pure functions: no clock, no locale, so equal records give equal bytes."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from leaderboards.standings import Row, Section
from leaderboards.statistics import Interval

MARK = "<!-- Written by python -m leaderboards.render; edits are lost. -->\n"
OVERVIEW = "README.md"
ANALYSES = "analyses.md"
CLAIMS = "claims.md"
MISSING = "\N{EN DASH}"
LEGEND = (
    "Mean ± half-width of the 95 % t interval over n seeds; a single seed has no interval. "
    "**Bold** is the best mean; ≈ is a tie with it: equal means, or a 95 % interval of their difference that holds 0 "
    "(paired where seeds are shared, else Welch's; n ≥ 2). **Rank** is every rank that the seeds leave possible (t "
    "tests of a row with each other one, Holm's correction); a single seed leaves all. ↑ higher is better, ↓ lower "
    "is better."
)


def page_name(task: str) -> str:
    """Return the file of a task: "pose/coco" -> "pose-coco.md"."""
    return task.replace("/", "-") + ".md"


def card_name(row: Row) -> str:
    """Return the file of a backbone with its weights."""
    name = "".join(char if char.isalnum() or char in "._-" else "-" for char in row.backbone)
    return f"backbone-{name}@{row.weights8}.md"


def arrow(section: Section) -> str:
    """Return the primary metric's name with its direction, where it has one."""
    if not section.ranked:
        return escape_cell(section.primary)
    return f"{escape_cell(section.primary)} {'↑' if section.higher_is_better else '↓'}"


def name_cells(row: Row) -> list[str]:
    """Return what identifies a row: backbone, linked to its card where it has one; pretraining method; weights."""
    name = escape_cell(row.backbone)
    return [f"[{name}]({card_name(row)})" if row.has_card else name, escape_cell(row.method) or MISSING, row.weights8]


def primary_cell(section: Section, row: Row) -> str:
    """Return the primary metric, bold for the best row, ≈ for a row that ties with it."""
    text = metric_cell(section, row, section.primary)
    if row is section.rows[0] and row.rank:
        return f"**{text}**"
    return f"{text} ≈" if row.ties else text


def rank_cell(row: Row) -> str:
    """Return the ranks that the data leave possible, "2" or "1 to 3" with a dash."""
    if row.rank is None:
        return MISSING
    first, last = row.rank
    return str(first) if first == last else f"{first}\N{EN DASH}{last}"


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
    return 2 if section.largest.get(name, 0.0) >= 10 else 4


def costs(row: Row) -> list[str]:
    """Return mean device-hours a run, images a second, part of training spent waiting for images, devices."""
    digits = {"device_hours": 4, "images_per_second": 1, "data_wait": 3}
    cells = [MISSING if (cost := row.cost(key)) is None else f"{cost:.{places}f}" for key, places in digits.items()]
    return [*cells, distinct(result.cost.get("device") for result in row.results)]


def fingerprint(section: Section) -> str:
    """Return the first eight digits of the data's fingerprint."""
    return distinct(str(result.data["fingerprint"] or "")[:8] for result in section.results)


def distinct(values: Iterable[object]) -> str:
    """Return the distinct values, sorted and joined; a dash where there is none."""
    texts = {escape_cell(value) for value in set(values) - {None, ""}}
    return "; ".join(sorted(texts)) or MISSING


SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\|*`[]<>"})


def escape_cell(text: object) -> str:
    """Return a text as one line of plain markdown that cannot end its table cell."""
    return " ".join(str(text).split()).translate(SPECIAL)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a markdown table, padded to be read raw; the first `left` columns are left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for cells in (head, rule, *rows):
        padded = (
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        lines += [f"| {' | '.join(padded)} |\n"]
    return "".join(lines)


# Tables as HTML, and the line of markdown that a cell of ours is, as HTML.

_TOKEN = re.compile(r"\\(.)|(\*\*|`)")
TIE = " ≈"


@dataclass(frozen=True, kw_only=True)
class Column:
    """The head of a column.

    Args:
        name: as HTML.
        kind: the class of its cells: "" (words), "wide" (prose) or "number".
        first: how the first press on the head sorts.
        sorted: how the rows stand as written; "" where another column orders them.
        task: what the filter by task knows the column by; "" where it holds for all.
    """

    name: str
    kind: str = ""
    first: str = "ascending"
    sorted: str = ""
    task: str = ""

    def __str__(self) -> str:
        """Render the cell of the head."""
        order = f' aria-sort="{self.sorted}"' if self.sorted else ""
        task = f' data-task="{escape(self.task)}"' if self.task else ""
        kind = f' class="{self.kind}"' if self.kind else ""
        return f'<th scope="col"{kind} data-first="{self.first}"{order}{task}>{self.name}</th>'


def inline(markdown: str) -> str:
    """Return a line of our markdown (backslash escapes, **bold**, `code`; no links) as HTML."""
    return "".join(_inline(markdown))


def _inline(markdown: str) -> Iterator[str]:
    start, tags = 0, {"**": "strong", "`": "code"}
    opened: set[str] = set()
    for token in _TOKEN.finditer(markdown):
        yield escape(markdown[start : token.start()])
        start = token.end()
        if token[1]:
            yield escape(token[1])
            continue
        yield f"<{'/' if token[2] in opened else ''}{tags[token[2]]}>"
        opened ^= {token[2]}
    assert not opened, markdown
    yield escape(markdown[start:])


def words(markdown: str, kind: str = "") -> str:
    """Return a cell of words."""
    return f'<td class="{kind}">{inline(markdown)}</td>' if kind else f"<td>{inline(markdown)}</td>"


def number_html(markdown: str, value: float | None, remark: str = "") -> str:
    """Return a cell with a number, which sorts by its full value; None and NaN go last whichever way it sorts."""
    key = "" if value is None or math.isnan(value) else f' data-value="{exact(value)}"'
    small = f"<small>{remark}</small>" if remark else ""
    text = inline(markdown).replace(TIE, f'<span class="tie">{TIE}</span>')  # hangs, so that digits align
    return f'<td class="number"{key}>{text}{small}</td>'


def exact(value: float) -> str:
    """Return a number to ten digits: the last ones of a float differ between builds of scipy."""
    return f"{value:.10g}"


def table_row(name: str, cells: Iterable[str], search: str) -> str:
    """Return a row: its head, and what the text filter looks in."""
    head = f'<th scope="row">{escape(name)}</th>'
    return f'<tr data-name="{escape(search.lower())}">{head}{"".join(cells)}</tr>'


def html_table(ident: str, caption: str, columns: Iterable[Column], rows: Iterable[str], kind: str = "") -> str:
    """Return a table that can be sorted, in a box of its own that scrolls; `caption` is HTML."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{ident}-caption">\n'
        f'<table class="sortable{" " if kind else ""}{kind}">\n'
        f'<caption id="{ident}-caption">{caption}</caption>\n'
        f"<thead><tr>{''.join(map(str, columns))}</tr></thead>\n"
        "<tbody>\n" + "".join(f"{line}\n" for line in rows) + "</tbody>\n</table>\n</div>\n"
    )


def bullets(lines: Iterable[str], kind: str = "remarks") -> str:
    """Return a list of HTML lines; "" for none."""
    items = "".join(f"<li>{line}</li>\n" for line in lines)
    return f'<ul class="{kind}">\n{items}</ul>\n' if items else ""


def slug(*texts: str) -> str:
    """Return an identifier for texts."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(texts)).strip("-")

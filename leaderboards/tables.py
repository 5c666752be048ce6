"""Tables and their cells, with a markdown and an HTML formatter.

Pages build `Table` values whose cells are lines of markdown; `Table.markdown` and `Table.html` format them. Pure
functions: no clock and no locale, so equal records give equal bytes.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from leaderboards.standings import Row, Section
from leaderboards.statistics import Interval

MARK = "<!-- Written by python -m leaderboards.render; edits are lost. -->\n"
OVERVIEW = "README.md"
ANALYSES = "analyses.md"
CLAIMS = "claims.md"
MISSING = "\N{EN DASH}"
TIE = " ≈"
LEGEND = (
    "Mean ± half-width of the 95 % t interval over n seeds; a single seed has no interval. **Bold** is the best mean; "
    "≈ marks a tie with it: equal means, or a 95 % interval of their difference that contains 0 (paired if seeds are "
    "shared, else Welch's; n ≥ 2). **Rank** is the range of ranks that the seeds leave possible (t tests against every "
    "other row, with Holm's correction); with a single seed every rank is possible. ↑ higher is better, ↓ lower is "
    "better."
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """The head of a column; all texts are lines of markdown.

    Args:
        name: in markdown linked to the page `link`, if there is one.
        protocol, metric: follow the name; the protocol is on a line of its own in HTML.
        kind: the HTML class of its cells: "" (words), "wide" (prose), "code" or "number".
        first: how the first press on the head sorts.
        sorted: how the rows are sorted as written; "" if another column orders them.
        task: the task that the page's filter knows the column by; "" if it belongs to all.
    """

    name: str
    link: str = ""
    protocol: str = ""
    metric: str = ""
    kind: str = ""
    first: str = "ascending"
    sorted: str = ""
    task: str = ""

    def markdown(self) -> str:
        """Return the cell of the head."""
        return " ".join(filter(None, (_linked(self.name, self.link), self.protocol, self.metric)))

    def html(self) -> str:
        """Return the `th` element."""
        order = f' aria-sort="{self.sorted}"' if self.sorted else ""
        task = f' data-task="{escape(self.task)}"' if self.task else ""
        kind = f' class="{self.kind}"' if self.kind else ""
        small = f"<small>{inline(self.protocol)}</small>" if self.protocol else ""
        attributes = f'{kind} data-first="{self.first}"{order}{task}'
        return f'<th scope="col"{attributes}>{inline(self.name)}{small}{inline(self.metric)}</th>'


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: a line of markdown without links, and what its two formats add.

    Args:
        value: the number that HTML sorts by; None and NaN are last in both directions.
        link: the page that markdown links to.
        remark: a second, small line in HTML.
    """

    text: str
    value: float | None = None
    link: str = ""
    remark: str = ""

    def html(self, kind: str) -> str:
        """Return the `td` element of a column of this kind."""
        css = f' class="{kind}"' if kind else ""
        known = self.value is not None and not math.isnan(self.value)
        key = f' data-value="{exact(self.value)}"' if known and self.value is not None else ""
        text = inline(f"`{self.text}`" if kind == "code" and self.text != MISSING else self.text)
        if kind == "number":
            text = text.replace(TIE, f'<span class="tie">{TIE}</span>')  # hangs, so that digits align
        small = f"<small>{self.remark}</small>" if self.remark else ""
        return f"<td{css}{key}>{text}{small}</td>"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Heads and rows of cells. A plain string is a `Column` or a `Cell` with this text and nothing else.

    Args:
        left: the number of left-aligned columns; the others are right-aligned.
        searched: the number of columns that the page's text filter searches; None: the left-aligned ones.
    """

    head: Sequence[Column | str]
    rows: Sequence[Sequence[Cell | str]]
    left: int
    searched: int | None = None

    def markdown(self) -> str:
        """Return the table as markdown, padded to be read raw."""
        head = [column if isinstance(column, str) else column.markdown() for column in self.head]
        lines = [[c if isinstance(c, str) else _linked(c.text, c.link) for c in row] for row in self.rows]
        widths = [max(3, *map(len, column)) for column in zip(head, *lines, strict=True)]
        sides = ["<" if index < self.left else ">" for index in range(len(widths))]
        rule = ["-" * (w - 1) + ("-" if side == "<" else ":") for side, w in zip(sides, widths, strict=True)]
        formats = [f"{side}{w}" for side, w in zip(sides, widths, strict=True)]
        return "".join(f"| {' | '.join(map(format, cells, formats))} |\n" for cells in (head, rule, *lines))

    def html(self, ident: str, caption: str, kind: str = "") -> str:
        """Return a table that can be sorted, in a box that scrolls; `caption` is HTML."""
        columns = [Column(name=column) if isinstance(column, str) else column for column in self.head]
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{ident}-caption">\n'
            f'<table class="sortable{" " if kind else ""}{kind}">\n'
            f'<caption id="{ident}-caption">{caption}</caption>\n'
            f"<thead><tr>{''.join(column.html() for column in columns)}</tr></thead>\n"
            f"<tbody>\n{''.join(self._row_html(columns, row) for row in self.rows)}</tbody>\n</table>\n</div>\n"
        )

    def _row_html(self, columns: Sequence[Column], row: Sequence[Cell | str]) -> str:
        """One row; its first cell is its head."""
        cells = [Cell(text=cell) if isinstance(cell, str) else cell for cell in row]
        names = cells[: self.left if self.searched is None else self.searched]
        search = " ".join(_plain(cell.text) for cell in names if cell.text != MISSING).lower()
        body = "".join(cell.html(column.kind) for cell, column in zip(cells[1:], columns[1:], strict=True))
        return f'<tr data-name="{escape(search)}"><th scope="row">{inline(cells[0].text)}</th>{body}</tr>\n'


def _linked(text: str, link: str) -> str:
    return f"[{text}]({link})" if link else text


# Cells of our tables.


def page_name(task: str) -> str:
    """Return the file of a task: "pose/coco" -> "pose-coco.md"."""
    return task.replace("/", "-") + ".md"


def card_name(row: Row) -> str:
    """Return the file of a backbone with its weights."""
    name = "".join(char if char.isalnum() or char in "._-" else "-" for char in row.backbone)
    return f"backbone-{name}@{row.weights8}.md"


def arrow(section: Section) -> str:
    """Return the primary metric's name with its direction, if it has one."""
    sign = (" ↑" if section.higher_is_better else " ↓") if section.ranked else ""
    return escape_cell(section.primary) + sign


def best_first(section: Section) -> str:
    """Return the order of the primary metric that puts the best value first."""
    return "descending" if section.higher_is_better else "ascending"


def name_columns(order: str = "") -> list[Column]:
    """Return the heads of `name_cells`; `order` is how the backbones are sorted."""
    return [Column(name="backbone", sorted=order), Column(name="method"), Column(name="weights", kind="code")]


def name_cells(row: Row) -> list[Cell]:
    """Return what identifies a row: backbone, linked to its card if it has one; pretraining method; weights."""
    name = Cell(text=escape_cell(row.backbone), link=card_name(row) if row.has_card else "")
    return [name, Cell(text=escape_cell(row.method) or MISSING), Cell(text=row.weights8)]


def section_column(section: Section, metric: str, first: str = "descending", task: str = "") -> Column:
    """Return the head of a column that holds a section's numbers of a metric, linked to its page."""
    name, protocol = escape_cell(section.task), escape_cell(section.protocol["name"])
    link = page_name(section.task)
    return Column(name=name, link=link, protocol=protocol, metric=metric, kind="number", first=first, task=task)


def primary_cell(section: Section, row: Row) -> Cell:
    """Return the primary metric, bold for the best row, ≈ for a row that ties with it."""
    cell = metric_cell(section, row, section.primary)
    if row is section.rows[0] and row.rank:
        return Cell(text=f"**{cell.text}**", value=cell.value)
    return Cell(text=f"{cell.text}{TIE}", value=cell.value) if row.ties else cell


def rank_cell(row: Row) -> Cell:
    """Return the ranks that the data leave possible, "2" or "1 to 3" with a dash."""
    if row.rank is None:
        return Cell(text=MISSING)
    first, last = row.rank
    text = str(first) if first == last else f"{first}\N{EN DASH}{last}"
    return Cell(text=text, value=first + last / 1e6)


def metric_cell(section: Section, row: Row, name: str) -> Cell:
    """Return `mean ± half-width`, with n if it differs from the row's."""
    interval = row.metrics.get(name)
    if interval is None:
        return Cell(text=MISSING)
    note = "" if interval.n == row.n else f" (n = {interval.n})"
    return Cell(text=number(interval, decimals(section, name)) + note, value=interval.mean)


def number(interval: Interval, digits: int) -> str:
    """Return `mean ± half-width` at fixed decimals; the mean alone if there is no interval."""
    width = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.mean:.{digits}f}{width}"


def decimals(section: Section, name: str) -> int:
    """Return 2 for percentages, 4 for a column of small values (metres, indices)."""
    return 2 if section.largest.get(name, 0.0) >= 10 else 4


COST_COLUMNS = (
    Column(name="device-hours/run", kind="number"),
    Column(name="images/s", kind="number", first="descending"),
    Column(name="waiting for data", kind="number"),
    Column(name="device", kind="wide"),
)


def cost_cells(row: Row) -> list[Cell]:
    """Return mean device-hours a run, images a second, part of training spent waiting for images, devices."""
    costs = [(row.cost(key), d) for key, d in (("device_hours", 4), ("images_per_second", 1), ("data_wait", 3))]
    cells = [Cell(text=MISSING if cost is None else f"{cost:.{digits}f}", value=cost) for cost, digits in costs]
    return [*cells, Cell(text=distinct(result.cost.get("device") for result in row.results))]


def fingerprint(section: Section) -> str:
    """Return the first eight digits of the data's fingerprint."""
    return distinct(str(result.data["fingerprint"] or "")[:8] for result in section.results)


def distinct(values: Iterable[object]) -> str:
    """Return the distinct values, sorted and joined; a dash if there are none."""
    return "; ".join(sorted({escape_cell(value) for value in set(values) - {None, ""}})) or MISSING


# Our lines of markdown: backslash escapes, **bold** and `code`; links are apart.

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\|*`[]<>"})
_TOKEN = re.compile(r"\\(.)|(\*\*|`)")


def escape_cell(text: object) -> str:
    """Return a text as one line of plain markdown that cannot end its table cell."""
    return " ".join(str(text).split()).translate(_SPECIAL)


def _plain(markdown: str) -> str:
    return _TOKEN.sub(lambda token: token[1] or "", markdown)


def inline(markdown: str) -> str:
    """Return a line of our markdown as HTML."""
    tags, opened, parts = {"**": "strong", "`": "code"}, set[str](), []
    # The groups of `_TOKEN` split the line into threes: plain text, an escaped character, a mark.
    found = [*(part or "" for part in _TOKEN.split(markdown)), "", ""]
    for text, char, mark in zip(found[::3], found[1::3], found[2::3], strict=True):
        parts.append(escape(text + char))
        if mark:
            parts.append(f"<{'/' if mark in opened else ''}{tags[mark]}>")
            opened ^= {mark}
    assert not opened, markdown
    return "".join(parts)


def exact(value: float) -> str:
    """Return a number to ten digits: the last ones of a float differ between builds of scipy."""
    return f"{value:.10g}"

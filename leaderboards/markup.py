"""Tables as HTML, and the line of markdown that a cell of ours is, as HTML."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

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


def number(markdown: str, value: float | None, remark: str = "") -> str:
    """Return a cell with a number, which sorts by its full value; None and NaN go last whichever way it sorts."""
    key = "" if value is None or math.isnan(value) else f' data-value="{exact(value)}"'
    small = f"<small>{remark}</small>" if remark else ""
    text = inline(markdown).replace(
        TIE, f'<span class="tie">{TIE}</span>'
    )  # hangs, so that digits align
    return f'<td class="number"{key}>{text}{small}</td>'


def exact(value: float) -> str:
    """Return a number to ten digits: the last ones of a float differ between builds of scipy."""
    return f"{value:.10g}"


def table_row(name: str, cells: Iterable[str], search: str) -> str:
    """Return a row: its head, and what the text filter looks in."""
    head = f'<th scope="row">{escape(name)}</th>'
    return f'<tr data-name="{escape(search.lower())}">{head}{"".join(cells)}</tr>'


def table(
    ident: str, caption: str, columns: Iterable[Column], rows: Iterable[str], kind: str = ""
) -> str:
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

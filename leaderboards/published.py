"""Numbers that others published (`published.toml`): shown with source and protocol, never ranked with ours."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.errors import UserError, unknown
from leaderboards.tables import MARK, OVERVIEW, Cell, Column, Table, escape_cell

PAGE = "published.md"
TITLE = "Published, not run here"
NOTE = (
    "Others measured these numbers under their own protocols: heads, schedules, input sizes and boxes differ between "
    "rows, so they are ranked neither with each other nor with ours. Each was read in the source given."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A number that others measured.

    Args:
        task: the task of ours that it belongs to, such as "depth/nyu".
        value, metric: as published; percentages 0-100, metres.
        backbone, method, pretraining: what was evaluated.
        protocol: how it was evaluated, in one line.
        source: where it was published: a paper's table, or a repository at a commit.
    """

    task: str
    backbone: str
    method: str
    pretraining: str
    protocol: str
    metric: str
    value: float
    source: str


def load(path: Path) -> list[Published]:
    """Read the numbers; raises UserError for one without a source, or whose value is not a number."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The published numbers {path} cannot be read: {error}. Fix the file.") from None
    if extra := content.keys() - {"group"}:
        raise unknown(f"key of {path}", min(extra), ["group"])
    found = []
    for group in content.get("group", []):
        rows = group.pop("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"rows of a group in {path} must be a list of tables. Fix the file.")
        found += [_number(path, group | row) for row in rows]
    return found


def _number(path: Path, merged: Mapping[str, Any]) -> Published:
    """Return the number of a row completed by the keys of its group."""
    fields = {field.name: field.type for field in dataclasses.fields(Published)}
    if extra := [key for key in merged if key not in fields]:
        raise unknown(f"key of a number in {path}", extra[0], fields)
    for key, kind in fields.items():
        value = merged.get(key)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if is_number if kind is float else isinstance(value, str) and value.strip():
            continue
        raise UserError(
            f"The number {merged.get('value', '')} of {merged.get('backbone', 'a backbone')} on "
            f"{merged.get('task', 'a task')} in {path} has no {key}. A published number needs all of "
            f"{', '.join(fields)}: add what is missing, or delete the row."
        )
    return Published(**{**merged, "value": float(merged["value"])})


def page(numbers: Sequence[Published]) -> str | None:
    """Return the page of all numbers, by task; None if there are none."""
    if not numbers:
        return None
    parts = [f"{MARK}# {TITLE}\n\n[Our numbers]({OVERVIEW}). {NOTE}\n"]
    parts += [f"## {escape_cell(task)}\n\n{published_table(group).markdown()}" for task, group in by_task(numbers)]
    return "\n".join(parts)


def published_table(numbers: Sequence[Published]) -> Table:
    """Return a row for each number."""
    head: list[Column | str] = [
        *("backbone", "method", "pretraining", "metric"),
        Column(name="value", kind="number", first="descending"),
        Column(name="protocol", kind="wide"),
        Column(name="source", kind="wide"),
    ]
    rows: list[list[Cell | str]] = []
    for n in numbers:
        names = map(escape_cell, (n.backbone, n.method, n.pretraining, n.metric))
        value = Cell(text=f"{n.value:g}", value=n.value)
        rows.append([*names, value, escape_cell(n.protocol), escape_cell(n.source)])
    return Table(head=head, rows=rows, left=4, searched=2)


def by_task(numbers: Sequence[Published]) -> Iterator[tuple[str, list[Published]]]:
    """Yield each task with its numbers, sorted by task."""
    for task, group in groupby(sorted(numbers, key=lambda number: number.task), key=lambda number: number.task):
        yield task, list(group)

"""The known names as `python -m bench.run --list` prints them: tables of at most 120 columns."""

import textwrap
from collections.abc import Sequence

from bench import tasks
from bench.backbones.architectures import architectures
from bench.errors import unknown
from bench.runs.plan import Entries
from bench.tasks import UNPUBLISHED, Protocol, Task

KINDS = ("backbones", "tasks", "protocols")
COLUMNS = 120


def listing(kind: str, entries: Entries, wanted: Sequence[str] = ()) -> str:
    """Return the names of one kind as text; of protocols, with all details if tasks are `wanted`. Raises UserError."""
    if kind == "backbones":
        return "".join(f"{name}\n" for name in [*entries.backbones, *sorted(architectures())])
    if kind == "protocols" and wanted:
        return "\n".join(_details(t, p) for t in tasks.find(wanted, entries.tasks) for p in t.protocols)
    known = [t for family in tasks.family_names() for t in tasks.tasks_of(family).values()]
    known += entries.tasks.values()
    if kind == "tasks":
        return _tasks(known)
    if kind == "protocols":
        return _protocols(known)
    raise unknown("list", kind, KINDS)


def _tasks(known: Sequence[Task]) -> str:
    rows = [("task", "metric", "data")]
    for task in known:
        baselines = f"Baselines: {', '.join(task.baselines)}. " if task.baselines else ""
        rows.append((task.name, task.metrics[0].name, baselines + task.dataset.source))
    rows += [("", "", ""), ("group", "tasks", "which")]
    rows += [(name, str(len(group.tasks)), group.about) for name, group in tasks.groups().items()]
    return _table(rows)


def _protocols(known: Sequence[Task]) -> str:
    rows = [("task", "protocol", "backbone", "epochs", "pixels", "published number")]
    for task in known:
        for p in task.protocols:
            kind = "frozen" if p.frozen else "fine-tuned"
            published = "-" if p.expected.startswith(UNPUBLISHED) else p.expected
            rows.append((task.name, p.name, kind, str(p.epochs), str(p.img_size), published))
    return f"{_table(rows)}\nWith --task NAME: each protocol's source, published number and command in full.\n"


def _details(task: Task, protocol: Protocol) -> str:
    """Return a protocol's texts, wrapped; the command stays on one line, so that it can be copied."""
    text = f"{protocol.source} Published: {protocol.expected}."
    wrapped = textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return f"{task.name} {protocol.name}\n{wrapped}\n  Command: {protocol.command or 'none'}\n"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as aligned columns, the last one shortened to what fits."""
    widths = [max(map(len, column)) + 2 for column in list(zip(*rows, strict=True))[:-1]]
    room = COLUMNS - sum(widths)
    lines = (
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        + (row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 3]}...")
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)

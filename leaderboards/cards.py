"""A card for each backbone: what it is, what became of its weights, and every number it has."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboards.markdown import (
    LEGEND,
    MARK,
    MISSING,
    OVERVIEW,
    arrow,
    card_name,
    costs,
    escape,
    page_name,
    primary_cell,
    rank_cell,
    table,
)
from leaderboards.standings import Row, Section, mode

KEYS = ("matched", "missing", "unexpected", "resampled")
HEAD = ["task", "protocol", "backbone is", "metric", "value", "rank", "of", "digest", "n"]
COSTS = ["device-hours/run", "images/s", "waiting for data", "device"]


def cards(standings: Sequence[Section]) -> dict[str, str]:
    """Return the cards as file name -> markdown."""
    found: dict[tuple[str, str], list[tuple[Section, Row]]] = defaultdict(list)
    for section in standings:
        for row in section.rows:
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
    listed = "".join(f"- {key}: {escape(value)}\n" for key, value in lines.items() if value)
    title = escape(f"{result.backbone['name']}, {numbers[0][1].weights8}")
    head = f"{MARK}# {title}\n\n[All tasks]({OVERVIEW}). {LEGEND}\n\n{listed}"
    return f"{head}\n{table([*HEAD, *COSTS], [_line(*number) for number in numbers], left=4)}"


def _loading(report: Mapping[str, Any]) -> str:
    """How many keys went where; lists are counted."""
    counts = {key: report.get(key) for key in KEYS}
    said = [
        f"{len(value) if isinstance(value, list) else value} {key}"
        for key, value in counts.items()
        if value is not None
    ]
    return ", ".join(said)


def _line(section: Section, row: Row) -> list[str]:
    old = " (superseded)" if section.superseded_by else ""
    metric = arrow(section)
    value = primary_cell(section, row) if section.primary in row.metrics else MISSING
    return [
        f"[{section.task}]({page_name(section.task)})",
        escape(section.protocol["name"]) + old,
        mode(section.protocol),
        metric,
        value,
        rank_cell(row),
        str(len(section.rows)),
        f"`{section.digest[:8]}`",
        str(row.n),
        *costs(row),
    ]

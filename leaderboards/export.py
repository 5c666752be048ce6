"""Exports for other programs: a CSV file of every number, and LaTeX tables (booktabs) of the current ones."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.files import write_atomic
from leaderboards.standings import Row, Section, mode
from leaderboards.tables import decimals, number, page_name, rank_cell

COLUMNS = (
    *("task", "protocol", "mode", "digest", "superseded_by", "backbone", "method", "weights"),
    *("metric", "primary", "higher_is_better", "mean", "half_width", "n", "rank_first", "rank_last"),
    *("device_hours", "images_per_second"),
)
WORDS = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater"}
SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"} | {char: f"\\text{word}{{}}" for char, word in WORDS.items()}
)


def write_csv(standings: Sequence[Section], path: Path) -> None:
    """Write a line for each backbone and metric of every section, also superseded ones, with unrounded means."""
    buffer = io.StringIO()
    lines = (line for section in standings for row in section.rows for line in _lines(section, row))
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *lines])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _lines(section: Section, row: Row) -> Iterator[Sequence[object]]:
    """Yield the values of COLUMNS for each metric of a row."""
    run = (section.task, section.protocol["name"], mode(section.protocol), section.digest, section.superseded_by)
    costs = row.cost("device_hours"), row.cost("images_per_second")
    for name, found in row.metrics.items():
        primary = name == section.primary
        better = section.higher_is_better if primary else None
        ranks = row.rank if primary and row.rank else (None, None)
        metric = (name, primary, better, found.mean, found.half_width, found.n, *ranks)
        yield *run, row.backbone, row.method, row.weights8, *metric, *costs


def write_latex(standings: Sequence[Section], folder: Path) -> list[Path]:
    """Write a file for each task: a table for each current section, ready for \\input. Returns the files."""
    texts: dict[Path, str] = {}
    for section in filter(lambda section: section.is_current, standings):
        path = folder / page_name(section.task).replace(".md", ".tex")
        texts[path] = texts.get(path, "% needs \\usepackage{booktabs}\n") + latex(section)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomic(path, text)
    return list(texts)


def latex(section: Section) -> str:
    """Return a section as a table: the primary metric first; bold is the best, $\\approx$ a tie with it."""
    others = sorted({name for row in section.rows for name in row.metrics} - {section.primary})
    arrow = " $\\uparrow$" if section.higher_is_better else " $\\downarrow$"
    head = ["backbone", "method", escaped(section.primary) + arrow * section.ranked, "rank"]
    head += [*map(escaped, others), "$n$"]
    body = "".join(" & ".join(_cells(section, row, others)) + " \\\\\n" for row in section.rows)
    return (
        f"% {section.task}, {section.protocol['name']}, digest {section.digest[:8]}\n"
        f"\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def _cells(section: Section, row: Row, others: Sequence[str]) -> list[str]:
    primary = _number(section, row, section.primary)
    if row is section.rows[0] and row.rank:
        primary = f"\\textbf{{{primary}}}"
    elif row.ties:
        primary = f"{primary} $\\approx$"
    rank = rank_cell(row).text.replace("\N{EN DASH}", "--")
    names = [escaped(row.backbone), escaped(row.method)]
    return [*names, primary, rank, *(_number(section, row, name) for name in others), str(row.n)]


def _number(section: Section, row: Row, name: str) -> str:
    interval = row.metrics.get(name)
    return number(interval, decimals(section, name)).replace("±", "$\\pm$") if interval else "--"


def escaped(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return text.translate(SPECIAL)

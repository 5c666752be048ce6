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
SPECIAL = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
}


def write_csv(standings: Sequence[Section], path: Path) -> None:
    """Write a line for each backbone and metric of every section, also superseded ones, with unrounded means."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for s in standings for row in s.rows for line in _lines(s, row))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _lines(section: Section, row: Row) -> Iterator[dict[str, object]]:
    first, last = row.rank or (None, None)
    shared = {
        "task": section.task,
        "protocol": section.protocol["name"],
        "mode": mode(section.protocol),
        "digest": section.digest,
        "superseded_by": section.superseded_by,
        "backbone": row.backbone,
        "method": row.method,
        "weights": row.weights8,
        "higher_is_better": section.higher_is_better,
        "device_hours": row.cost("device_hours"),
        "images_per_second": row.cost("images_per_second"),
    }
    for name, interval in row.metrics.items():
        primary = name == section.primary
        yield shared | {
            "metric": name,
            "primary": primary,
            "higher_is_better": section.higher_is_better if primary else None,
            "mean": interval.mean,
            "half_width": interval.half_width,
            "n": interval.n,
            "rank_first": first if primary else None,
            "rank_last": last if primary else None,
        }


def write_latex(standings: Sequence[Section], folder: Path) -> list[Path]:
    """Write a file for each task: a table for each current section, ready for \\input. Returns the files."""
    current = [section for section in standings if section.is_current]
    texts: dict[Path, str] = {}
    for section in current:
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
    lines = [" & ".join(head), "\\midrule"]
    lines += [" & ".join(_cells(section, row, others)) for row in section.rows]
    body = " \\\\\n".join(lines).replace("\\midrule \\\\", "\\midrule")
    title = f"{section.task}, {section.protocol['name']}, digest {section.digest[:8]}"
    return (
        f"% {title}\n\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}\n\\toprule\n{body} \\\\\n"
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
    if interval is None:
        return "--"
    return number(interval, decimals(section, name)).replace("±", "$\\pm$")


def escaped(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(char, char) for char in text)

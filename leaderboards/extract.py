"""The overview's tables inside another file, a README, between two marks."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from leaderboards.markdown import table

START, END = "<!-- tables -->\n", "<!-- /tables -->\n"


def put(path: Path, overview: str, out: Path) -> str:
    """Return the file's text with the overview's tables between its marks, links leading from the file to `out`.

    Raises UserError where the file has not each mark once.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--extract {path} cannot be read: {error}. Give a markdown file."
        ) from None
    if text.count(START) != 1 or text.count(END) != 1:
        raise UserError(
            f"--extract {path} must have the lines {START.strip()} and {END.strip()} once each: what is between them "
            f"is replaced by the tables. Add them where the tables belong."
        )
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    folder = os.path.relpath(out.resolve(), path.resolve().parent).replace(os.sep, "/")
    return f"{before}{START}{_tables(overview, folder)}{END}{after}"


def _tables(overview: str, folder: str) -> str:
    """The sections that hold tables, with their titles in bold."""
    parts = []
    for section in overview.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        if lines := [line for line in body.splitlines() if line.startswith("|")]:
            parts.append(f"**{title}**\n\n{_moved(lines, folder)}")
    return "\n".join(parts)


def _moved(lines: Sequence[str], folder: str) -> str:
    """A table with its links led to the folder, aligned again."""
    led = [re.sub(r"\]\((?=[^)]+\.md\))", f"]({folder}/", line) for line in lines]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in led]
    return table(cells[0], cells[2:], left=3)

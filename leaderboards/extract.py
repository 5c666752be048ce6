"""The overview's tables and the claims' verdicts inside another file, a README, between marks."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bench.errors import UserError
from leaderboards.markdown import CLAIMS, OVERVIEW, table

TABLES, VERDICTS = (
    "tables",
    "claims",
)  # <!-- tables --> and <!-- /tables -->: what is between them is replaced
CARD = re.compile(r"\]\((backbone-[^)]+\.md)\)")


def put(path: Path, pages: Mapping[str, str], out: Path, without: Collection[str] = ()) -> str:
    """Return the file's text with what belongs between its marks, links leading from the file to `out`.

    Rows of the backbones whose pages are in `without` are left out, and how many they are is said. Marks of the
    claims may be left out. Raises UserError where the file has not each mark of the tables once.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--extract {path} cannot be read: {error}. Give a markdown file."
        ) from None
    folder = os.path.relpath(out.resolve(), path.resolve().parent).replace(os.sep, "/")
    text = _replaced(path, text, TABLES, _tables(pages[OVERVIEW], folder, without))
    if any(mark in text for mark in _marks(VERDICTS)):
        text = _replaced(path, text, VERDICTS, _verdicts(pages.get(CLAIMS, "")))
    return text


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- /{name} -->\n"


def _replaced(path: Path, text: str, name: str, by: str) -> str:
    start, end = _marks(name)
    if text.count(start) != 1 or text.count(end) != 1:
        raise UserError(
            f"--extract {path} must have the lines {start.strip()} and {end.strip()} once each: what is between them "
            f"is replaced by the {name}. Add them where the {name} belong."
        )
    before, _, rest = text.partition(start)
    return f"{before}{start}{by}{end}{rest.partition(end)[2]}"


def _verdicts(page: str) -> str:
    """The table of all claims, which stands before the chapters."""
    lines = page.partition("\n## ")[0].splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("|"))


def _tables(overview: str, folder: str, without: Collection[str]) -> str:
    """The sections that hold tables, with their titles in bold."""
    parts, left_out = [], set()
    for section in overview.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        pages = {line: found[1] for line in lines if (found := CARD.search(line))}
        left_out |= set(pages.values()) & set(without)
        if kept := [line for line in lines if pages.get(line) not in without]:
            parts.append(f"**{title}**\n\n{_moved(kept, folder)}")
    if left_out:
        whole = f"[the overview]({folder}/{OVERVIEW})"
        parts.append(
            f"Of the backbones whose methods are compared, {len(left_out)} are in {whole} alone.\n"
        )
    return "\n".join(parts)


def _moved(lines: Sequence[str], folder: str) -> str:
    """A table with its links led to the folder, aligned again."""
    led = [re.sub(r"\]\((?=[^)]+\.md\))", f"]({folder}/", line) for line in lines]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in led]
    return table(cells[0], cells[2:], left=3)

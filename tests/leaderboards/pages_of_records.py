"""Pages of records that a test makes, and the cells of their tables."""

import re

from leaderboards.render import all_pages
from leaderboards.standings import sections


def tables(records):
    return all_pages(sections(records))


def seeds(result, *values, primary="top1", **changes):
    return [result(seed=i, metrics={primary: value}, primary=primary, **changes) for i, value in enumerate(values)]


def cells(markdown):
    """Return the cells of all table rows, heads included."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in found if not set("".join(row)) <= {"-", ":"}]


def rows(markdown):
    """Return the cells of all table rows of backbones, without links to cards."""
    found = [row for row in cells(markdown) if row[0] != "backbone"]
    return [[re.sub(r"\[(\S+)\]\(backbone-\S+\)", r"\1", row[0]), *row[1:]] for row in found]

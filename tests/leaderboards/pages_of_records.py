"""Pages of records that a test makes up, and the cells of their tables."""

import re

from leaderboards.render import all_pages
from leaderboards.standings import sections


def tables(records):
    return all_pages(sections(records))


def seeds(result, *values, primary="top1", **changes):
    return [result(seed=i, metrics={primary: value}, primary=primary, **changes) for i, value in enumerate(values)]


def rows(markdown):
    """The cells of every table row, without the heads and rules."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    lines = [re.sub(r"\[(\S+)\]\(backbone-\S+\)", r"\1", line) for line in lines]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "backbone" and not set("".join(row)) <= {"-", ":"}]

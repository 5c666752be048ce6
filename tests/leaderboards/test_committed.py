"""What is committed is what the records say: the pages, and the extract in the README."""

from pathlib import Path

from bench.results import Store
from leaderboards import render
from leaderboards.tables import OVERVIEW, tables

ROOT = Path(__file__).parents[2]


def test_the_committed_pages_are_up_to_date() -> None:
    assert render.main(["--check"]) == 0


def test_the_readme_shows_the_overview_of_the_records() -> None:
    overview = tables(Store(ROOT / "leaderboards/results").results())[OVERVIEW]
    rows = [line for line in overview.splitlines() if line.startswith("|")]
    assert rows
    readme = (ROOT / "README.md").read_text().replace("](leaderboards/", "](")
    missing = [row for row in rows if row not in readme]
    assert not missing, "copy these into README.md:\n" + "\n".join(missing)

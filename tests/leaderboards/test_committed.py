"""The committed pages and the extract in the README are up to date with the records."""

from pathlib import Path

from leaderboards import render

README = Path(__file__).parents[2] / "README.md"


def test_the_committed_pages_and_the_readme_are_up_to_date() -> None:
    assert render.main(["--check", "--extract", str(README)]) == 0

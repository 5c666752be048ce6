"""Tables of the pages inside a README: what is between the marks, and nothing else, is replaced."""

from pathlib import Path
from typing import Any

import pytest
from claimed_world import world

from bench.errors import UserError
from leaderboards import replicates
from leaderboards.render import put
from leaderboards.standings import sections
from leaderboards.tables import CLAIMS, OVERVIEW

TABLES = "<!-- tables -->\nold\n<!-- /tables -->\n"
CLAIMED = "<!-- claims -->\nold\n<!-- /claims -->\n"
ROW = "| [vit](backbone-vit.md) | mae | a1 | 50 |"
PAGES = {
    OVERVIEW: f"# L\n\n## Fine-tuned\n\n| backbone | method | weights | top1 |\n| - | - | - | - |\n{ROW}\n\ntext\n",
    CLAIMS: "# Claims\n\nrule\n\n|  | claim |\n| - | - |\n| 1 | MIM |\n\n## Scale 1\n\n| claimed | n |\n",
}


def readme(folder: Path, text: str) -> Path:
    path = folder / "README.md"
    path.write_text(text)
    return path


def test_tables_stand_between_their_marks_with_links_from_the_file(tmp_path: Path) -> None:
    found = put(readme(tmp_path, f"before\n{TABLES}after\n"), PAGES, tmp_path / "boards")
    assert found.startswith("before\n<!-- tables -->\n**Fine-tuned**\n")
    assert "[vit](boards/backbone-vit.md)" in found
    assert found.endswith("<!-- /tables -->\nafter\n")
    assert "old" not in found
    assert "MIM" not in found


def test_some_backbones_are_left_out_and_counted(tmp_path: Path) -> None:
    twice = f"## Frozen\n\n{PAGES[OVERVIEW].partition('## ')[2].partition(chr(10))[2]}"
    other = ROW.replace("backbone-vit", "backbone-resnet").replace("[vit]", "[resnet]")
    overview = PAGES[OVERVIEW].replace(ROW, f"{ROW}\n{other}") + twice
    without = ["backbone-vit.md", "backbone-of-no-table.md"]
    found = put(readme(tmp_path, TABLES), {OVERVIEW: overview}, tmp_path / "boards", without)
    assert "[resnet](boards/backbone-resnet.md)" in found
    assert "[vit]" not in found
    assert "methods are compared, 1 are in [the overview](boards/README.md)" in found


def test_compared_backbones_are_all_but_scratch(result: Any) -> None:
    hashes = {r.backbone["weights_sha256"] for r in world(result)} - {None}
    rows = replicates.compared(sections(world(result)))
    assert sorted(row.weights8 for row in rows) == sorted(sha[:8] for sha in hashes)


def test_the_verdicts_of_all_claims_and_no_chapter(tmp_path: Path) -> None:
    found = put(readme(tmp_path, f"{TABLES}{CLAIMED}after\n"), PAGES, tmp_path)
    assert found.endswith("<!-- claims -->\n|  | claim |\n| - | - |\n| 1 | MIM |\n<!-- /claims -->\nafter\n")


@pytest.mark.parametrize("text", ["", TABLES * 2, "<!-- tables -->\n", f"{TABLES}<!-- claims -->\n"])
def test_marks_are_there_once_or_it_is_said(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must have the lines <!-- (tables|claims) --> and"):
        put(readme(tmp_path, text), PAGES, tmp_path)

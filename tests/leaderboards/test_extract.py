"""A small table of the results inside a README: only the text between the marks is replaced."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pages_of_records import cells

from bench.errors import UserError
from bench.records import Result
from leaderboards import claims_page
from leaderboards.render import put
from leaderboards.standings import Section, sections

TABLES = "<!-- tables -->\nold\n<!-- /tables -->\n"
CLAIMED = "<!-- claims -->\nold\n<!-- /claims -->\n"
ERRORS = {"task": "depth/scenes", "primary": "RMSE", "higher_is_better": False, "digest": "d2" * 32}
Make = Callable[..., Result]


def readme(folder: Path, text: str) -> Path:
    path = folder / "README.md"
    path.write_text(text)
    return path


def run(result: Make, task: str, backbone: str, *values: float, **changes: object) -> list[Result]:
    """The seeds of a backbone, fine-tuned on a task of the embedded world."""
    fields = {"backbone": backbone, "protocol": "finetune", **(ERRORS if task == "depth" else {}), **changes}
    primary = str(fields.get("primary", "top1"))
    return [result(seed=seed, metrics={primary: value}, **fields) for seed, value in enumerate(values)]


@pytest.fixture
def standings(result: Make) -> list[Section]:
    return sections(
        [
            *run(result, "classification", "vit", 50.0, 60.0),
            *run(result, "depth", "vit", 1.5),
            *run(result, "classification", "resnet", 40.0),
            *run(result, "depth", "resnet", 2.5),
            *run(result, "classification", "swin", 70.0),
        ]
    )


def test_backbones_with_every_family_best_first_without_links_in_cells(
    standings: Sequence[Section], tmp_path: Path
) -> None:
    found = put(readme(tmp_path, f"before\n{TABLES}after\n"), standings, tmp_path / "boards")
    assert cells(found) == [
        ["backbone", "classification", "depth"],
        ["vit", "**55.00 ± 63.53**", "**1.5000**"],
        ["resnet", "40.00", "2.5000"],
    ]
    assert found.startswith("before\n<!-- tables -->\n| backbone |")
    assert "All results: [boards/](boards/README.md).\n<!-- /tables -->\nafter\n" in found
    assert "\nold\n" not in found


def test_a_pretraining_run_of_a_suite_has_no_row(result: Make, standings: Sequence[Section], tmp_path: Path) -> None:
    made = [*run(result, "classification", "mae-0", 99.0, pretraining={"pretraining": '{"seed": 0}'})]
    made[0].backbone["weights"] = "backbone.safetensors"
    every = sections([*(r for section in standings for r in section.results), *made])
    assert "mae-0" not in put(readme(tmp_path, TABLES), every, tmp_path)


def test_a_line_has_120_characters_at_most_and_long_names_cost_the_intervals(result: Make, tmp_path: Path) -> None:
    long = sections(run(result, "classification", "v" * 97, 50.0, 60.0))
    found = put(readme(tmp_path, TABLES), long, tmp_path)
    assert max(map(len, found.splitlines())) <= 120
    assert cells(found)[1] == ["v" * 97, "**55.00**"]


def test_without_a_complete_backbone_the_extract_is_a_sentence(tmp_path: Path) -> None:
    assert "No backbone has been fine-tuned" in put(readme(tmp_path, TABLES), [], tmp_path)


def test_the_verdicts_of_all_claims_without_their_chapters(tmp_path: Path) -> None:
    page = "# Claims\n\nrule\n\n|  | claim |\n| - | - |\n| 1 | MIM |\n\n## Scale 1\n\n| claimed | n |\n"
    found = put(readme(tmp_path, f"{TABLES}{CLAIMED}after\n"), [], tmp_path, claims_page.summary(page))
    assert found.endswith("<!-- claims -->\n|  | claim |\n| - | - |\n| 1 | MIM |\n<!-- /claims -->\nafter\n")


@pytest.mark.parametrize("text", ["", TABLES * 2, "<!-- tables -->\n", f"{TABLES}<!-- claims -->\n"])
def test_missing_or_repeated_marks_are_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must contain the lines <!-- (tables|claims) --> and"):
        put(readme(tmp_path, text), [], tmp_path)

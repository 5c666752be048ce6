"""The page of analyses: scalars by backbone, pictures, and their correlation with scores."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboards import analyses, compare, render, web_page
from leaderboards.analyses import correlations, scalars, shown
from leaderboards.standings import Section, read

Write = Callable[..., Path]
ATTENTION = {"task": "analysis/attention", "primary": "distance", "digest": "a0" * 32}
DEPTH = {
    "task": "depth/scenes",
    "primary": "RMSE",
    "higher_is_better": False,
    "protocol": "finetune",
    "digest": "de" * 32,
}
POSE = {"task": "pose/scenes", "primary": "AP", "digest": "50" * 32}
BIAS = {"task": "analysis/shape-bias-geirhos", "primary": "shape_bias", "digest": "5b" * 32}


def backbone(index: int) -> dict[str, str]:
    return {"backbone": f"vit-{index}", "weights": f"{index:02d}" * 32}


@pytest.fixture
def six(write: Write) -> list[Path]:
    """Six backbones: the farther they attend, the worse (a larger error) they are at depth."""
    made = []
    for i in range(6):
        values = {"distance": 60.0 + i, "KL": [3.0, 1.0, 2.0, 5.0, 4.0, 6.0][i], "distance/0": 7.0}
        made.append(write(metrics=values, **ATTENTION, **backbone(i)))
        write(metrics={"RMSE": 1.0 + i / 10, "delta1": 0.5}, **DEPTH, **backbone(i))
    for i in range(3):
        write(metrics={"AP": 10.0 * i}, **POSE, **backbone(i))
    return made


def standings(results_dir: Path) -> list[Section]:
    return read(results_dir).standings


def text(results_dir: Path, out: Path) -> str:
    known = read(results_dir)
    made = analyses.page(known.standings, known.pictures, out)
    assert made is not None
    return made


def line(page: str, start: str) -> list[str]:
    (found,) = [row for row in page.splitlines() if row.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_more_of_a_scalar_with_a_larger_error_is_a_negative_tau(
    six: list[Path], results_dir: Path, tmp_path: Path
) -> None:
    page = text(results_dir, tmp_path)
    cell = line(page, "analysis/attention, frozen, distance")[1]

    assert cell == "**-1.00 (-1.00 to -0.65), n = 6**"
    # 3 1 2 5 4 6 against 6 5 4 3 2 1: of 15 pairs 12 are in the opposite order, 3 are not.
    assert line(page, "analysis/attention, frozen, KL")[1] == "-0.60 (-0.92 to +0.22), n = 6"


def test_fewer_than_four_backbones_give_no_correlation(six: list[Path], results_dir: Path, tmp_path: Path) -> None:
    page = text(results_dir, tmp_path)
    assert "Not computed, since fewer than 4 backbones have both: pose/scenes frozen (n = 3)." in page


def test_the_note_counts_intervals_that_exclude_0_by_chance(results_dir: Path, tmp_path: Path, write: Write) -> None:
    """Twenty scalars against a score: one."""
    for i in range(6):
        values = {f"scalar{k}": float(i * (k % 6 + 1) % 7) for k in range(19)}
        write(metrics={"distance": float(i), **values}, **ATTENTION, **backbone(i))
        write(metrics={"RMSE": 1.0 + i}, **DEPTH, **backbone(i))
    assert "of the 20 intervals here, 1 would exclude 0 by chance" in text(results_dir, tmp_path)


def test_frozen_and_fine_tuned_backbones_are_correlated_separately(six: list[Path], results_dir: Path) -> None:
    fine_tuned, frozen = correlations(standings(results_dir))

    assert [s.task for s in fine_tuned.columns] == ["depth/scenes"]
    assert frozen.columns == ()
    assert frozen.too_few == {"pose/scenes frozen": 3}
    assert {scalar.metric for scalar, _ in fine_tuned.lines} == {"distance", "KL"}


def test_only_backbones_with_both_count(six: list[Path], results_dir: Path, write: Write) -> None:
    write(metrics={"RMSE": 0.1}, **DEPTH, backbone="other", weights="ff" * 32)
    write(metrics={"distance": 1.0}, **ATTENTION, backbone="vit-0", weights="ee" * 32)
    (column, *_) = correlations(standings(results_dir))
    assert [found[0].n for _, found in column.lines] == [6, 6]


def test_pretrainings_that_differ_in_their_seed_are_one_backbone(results_dir: Path, write: Write) -> None:
    """Five methods of three seeds: 15 points would say much more than there is."""
    for method in range(5):
        for seed in range(3):
            named = backbone(10 * method + seed)
            header = json.dumps({"method": f"m{method}", "seed": seed, "subset_seed": seed})
            named |= {"pretraining": {"pretraining": header}}
            # By the means methods rank 0 1 2 3 4 and 1 0 2 3 4; seeds do not keep to it.
            attends, errs = method + [0.0, 1.5, -1.5][seed], [1, 0, 2, 3, 4][method] - 0.1 * seed
            write(metrics={"distance": attends}, **ATTENTION, **named)
            write(metrics={"RMSE": errs}, **DEPTH, **named)
    (column, *_) = correlations(standings(results_dir))
    ((_, (found,)),) = column.lines
    assert (found.n, found.tau) == (5, pytest.approx(-0.8))  # one pair of ten is the other way round


def test_layers_and_ends_of_intervals_are_not_scalars(results_dir: Path, write: Write) -> None:
    values = {"shape_bias": 0.2, "shape_bias_low": 0.1, "shape_bias_high": 0.3, "shape_bias/cat": 0.5}
    write(metrics={**values, "shape_top1": 16.0}, **BIAS, **backbone(0))
    (section,) = shown(standings(results_dir))
    assert [scalar.metric for scalar in scalars(section)] == ["shape_bias", "shape_top1"]


def test_values_their_intervals_and_references(results_dir: Path, tmp_path: Path, write: Write) -> None:
    values = {"shape_bias": 0.2321, "shape_bias_low": 0.2048, "shape_bias_high": 0.2604}
    values |= {"reference/humans": 0.9587, "reference/resnet50": 0.2207}
    write(metrics=values, **BIAS, **backbone(0))
    write(metrics={"distance": 60.0}, **ATTENTION, **backbone(1))
    page = text(results_dir, tmp_path)

    assert line(page, "[vit-0]")[1:] == ["mae", "00000000", "–", "0.2321 (0.205–0.260)"]  # noqa: RUF001
    assert line(page, "[vit-1]")[-2:] == ["60.00", "–"]  # noqa: RUF001
    assert line(page, "humans")[1:] == ["for reference", "–", "–", "0.9587"]  # noqa: RUF001
    assert page.index("| humans") < page.index("| resnet50")


def test_pictures_are_linked_relative_to_the_page(six: list[Path], results_dir: Path, tmp_path: Path) -> None:
    picture = six[0].with_name(f"{six[0].stem}.heads.png")
    picture.write_bytes(b"png")
    page = text(results_dir, tmp_path / "pages")
    (listed,) = [row for row in page.splitlines() if row.startswith("- vit-0@00000000")]

    assert "[analysis/attention frozen: heads, seed 0]" in listed
    link = listed.rpartition("(")[2].rstrip(")").replace("%40", "@")
    assert (tmp_path / "pages" / link).resolve() == picture


def test_without_an_analysis_there_is_no_page(results_dir: Path, write: Write) -> None:
    write(metrics={"RMSE": 1.0}, **DEPTH)
    known = standings(results_dir)
    assert analyses.page(known, {}, results_dir) is None
    assert web_page.analyses_chapter(known) == ""


def test_smoke_and_superseded_runs_do_not_count(
    six: list[Path], results_dir: Path, tmp_path: Path, write: Write
) -> None:
    before = text(results_dir, tmp_path)
    smoke = {**ATTENTION, "protocol": "frozen-smoke", "digest": "11" * 32}
    old = {**ATTENTION, "digest": "22" * 32, "finished": "2020-01-01T00:00:00+00:00"}
    for changes in (smoke, old):
        write(metrics={"distance": 1.0}, **changes, **backbone(0))
    assert text(results_dir, tmp_path) == before


def test_the_web_chapter_has_the_numbers_of_the_page(
    six: list[Path], results_dir: Path, tmp_path: Path, write: Write
) -> None:
    write(metrics={"shape_bias": 0.2, "reference/humans": 0.9587}, **BIAS, **backbone(0))
    html = web_page.analyses_chapter(standings(results_dir))

    assert "<strong>-1.00 (-1.00 to -0.65), n = 6</strong>" in html
    assert 'data-value="0.9587"' in html
    assert "pose/scenes frozen (n = 3)" in html
    assert html.count("<table") == html.count("</table>") == 2
    assert html.count("<section") == html.count("</section>") == 2


def test_render_writes_the_page_and_does_not_rank_analyses(six: list[Path], results_dir: Path, tmp_path: Path) -> None:
    out, html = tmp_path / "out", tmp_path / "html"
    asked = ["--results", str(results_dir), "--out", str(out), "--html", str(html)]
    assert render.main(asked) == 0
    overview = (out / "README.md").read_text()

    assert "Analyses of the features: [analyses](analyses.md)." in overview
    assert "analysis/attention" not in overview
    assert "depth/scenes" in overview
    assert "frozen distance" in (out / "analyses.md").read_text()
    rows = [row for row in (out / "analysis-attention.md").read_text().splitlines() if "[vit-" in row]
    assert [line("\n".join(rows), "[vit-5]")[i] for i in (3, 4)] == ["65.00", "–"]  # noqa: RUF001
    assert not any("**" in row for row in rows)
    assert 'id="analyses-title"' in (html / "index.html").read_text()
    assert render.main([*asked, "--check"]) == 0


def test_in_an_analysis_no_backbone_is_better(six: list[Path], results_dir: Path, write: Write) -> None:
    for i, seed in ((0, 1), (1, 1), (0, 2), (1, 2)):
        write(metrics={"distance": 60.0 + i + seed / 100}, seed=seed, **ATTENTION, **backbone(i))
    compared = compare.page(standings(results_dir), "vit-1", "vit-0")
    assert "A is larger, by 1.00 or more" in compared
    assert "better" not in line(compared, "analysis/attention")[-1]

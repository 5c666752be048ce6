"""The page of claims: the rule, the scales, the numbers, and what is missing."""

import dataclasses
import json

import pytest
from claimed_world import AGAINST, SPECIES, world

from leaderboards import claims_page, render
from leaderboards.claims_page import FAILS, HOLDS, OPEN
from leaderboards.standings import sections
from leaderboards.statistics import mean_interval
from leaderboards.tables import CLAIMS, OVERVIEW


def elsewhere(made):
    """The record of the same pretraining on other images."""
    header = made.backbone["pretraining"].get("pretraining")
    if header is None:
        return made
    settings = {**json.loads(header), "data": "unlabelled"}
    sha = made.backbone["weights_sha256"][::-1]
    changed = {"weights_sha256": sha, "pretraining": {"pretraining": json.dumps(settings)}}
    return dataclasses.replace(made, backbone={**made.backbone, **changed})


def summary(page, number):
    """The cells of a claim, a scale each."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {number} ")]
    return [cell.strip() for cell in line.split("|")[3:-1]]


def test_another_scale_is_judged_separately_and_smoke_runs_are_ignored(result):
    records = world(result)
    again = [elsewhere(r) for r in world(result, changes=AGAINST.values()) if r.backbone["weights_sha256"]]
    found = claims_page.scales(sections([*records, *again]))
    assert [scale.data for scale in found] == ["species", "unlabelled"]
    page = claims_page.page(sections([*records, *again]))
    counts = ("2 of 2 as claimed, 0 against", "1 of 2 as claimed, 1 against")
    assert summary(page, 7) == [f"{HOLDS} ({counts[0]})", f"{FAILS} ({counts[1]})"]
    assert claims_page.covered(found[0]) == SPECIES
    tiny = dataclasses.replace(found[0], data="tiny-imagenet-200")
    assert claims_page.covered(tiny) == "classification/tiny-imagenet"
    smoke = [dataclasses.replace(r, protocol={**r.protocol, "name": "x-smoke"}) for r in records]
    assert claims_page.scales(sections(smoke)) == []


def test_the_page_has_the_rule_the_scores_and_what_is_missing(result):
    page = claims_page.page(sections(world(result)))
    assert claims_page.RULE in page
    assert page.count("### ") == 10
    top1 = [r for r in world(result) if r.backbone["name"].startswith("mae-") and r.task == SPECIES]
    tuned = [r.metrics["top1"] for r in top1 if r.protocol["name"] == "finetune"]
    interval = mean_interval(tuned)
    assert f"{interval.mean:.2f} ± {interval.half_width:.2f} (n = 3)" in page
    # Without a store there are no curves, and so no verdict on the ninth.
    ninth = page[page.index("### 9.") : page.index("### 10.")]
    assert "**Not decided by these records**: 0 of 4 as claimed, 0 against." in ninth
    assert "records of detection/scenes finetune have no mean of the curve bbox" in ninth


def test_curves_are_read_from_the_store(write, results_dir, result):
    for made in world(result):
        fields = {
            **{"task": made.task, "digest": made.digest, "seed": made.seed, "curves": made.curves},
            **{"metrics": made.metrics, "primary": made.primary, "protocol": made.protocol["name"]},
            **{"backbone": made.backbone["name"], "weights": made.backbone["weights_sha256"]},
        }
        if made.task == "detection/scenes":
            write(**fields)
    pages = render.all_pages(sections(world(result)), records=results_dir)
    assert f"[claims]({CLAIMS})" in pages[OVERVIEW]
    page = pages[CLAIMS]
    assert page.count("**Holds**: ") == 10


def test_without_two_methods_there_is_no_page(result):
    assert claims_page.page(sections([result()])) is None
    assert CLAIMS not in render.all_pages(sections([result()]))
    alone = [r for r in world(result) if r.backbone["method"] == "mae"]
    assert claims_page.page(sections(alone)) is None


def test_a_scale_of_one_replicate_is_shown_and_a_scale_without_analyses_is_not(result):
    once = [elsewhere(r) for r in world(result, seeds=(0,)) if r.backbone["weights_sha256"]]
    page = claims_page.page(sections([*world(result), *once]))
    assert summary(page, 10) == [f"{HOLDS} (2 of 2 as claimed, 0 against)", f"{OPEN} (n = 1)"]
    chapter = page[page.index("## Scale 2") :]
    (row,) = [r for r in chapter.splitlines() if "mae above supervised: analysis/shape-bias" in r]
    _, _, difference, n, outcome, _ = (cell.strip() for cell in row.split("|"))
    assert float(difference) == pytest.approx(0.6 - 0.3, abs=1e-3)
    assert (n, outcome) == ("1", "no interval")
    assert "an interval needs" not in chapter
    unlooked_into = [r for r in once if not r.task.startswith("analysis/")]
    assert "Scale 2" not in claims_page.page(sections([*world(result), *unlooked_into]))

"""Verdicts on hand-made records for which each is known."""

import dataclasses
import json
import math

import pytest
from claimed_world import AGAINST, SPECIES, record, world

from bench.runs import suite
from leaderboards import claims_page
from leaderboards.claims import Claim, Comparison, Score, Term, claims
from leaderboards.claims_page import FAILS, HOLDS, OPEN, verdict
from leaderboards.standings import sections

NUMBERS = sorted(AGAINST)


def judged(records):
    standings = sections(records)
    (scale,) = claims_page.scales(standings)
    found = claims_page.Replicates(scale, standings, lambda result: result.curves)
    return {claim.number: verdict(claim, found) for claim in claims(SPECIES, found.blocks)}


def test_every_claim_holds_if_all_scores_are_as_claimed(result):
    words = {number: one.word for number, one in judged(world(result)).items()}
    assert words == dict.fromkeys(NUMBERS, HOLDS)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_claim_does_not_hold_if_one_comparison_is_against_it(result, number):
    one = judged(world(result, changes=[AGAINST[number]]))[number]
    assert one.word == FAILS
    assert {each.outcome for each in one.judged} >= {"for", "against"}


def test_no_claim_is_decided_if_replicates_scatter(result):
    words = {one.word for one in judged(world(result, spread=3)).values()}
    assert words == {OPEN}


def test_no_claim_is_decided_by_one_replicate_and_the_reason_is_given(result):
    for one in judged(world(result, seeds=(0,))).values():
        assert one.word == OPEN
        assert all("n = 1" in text for text in one.missing)
        assert all(each.interval.half_width is None for each in one.judged)


@pytest.mark.parametrize("number", [n for n in NUMBERS if n not in (2, 3)])
def test_a_missing_method_is_named(result, number):
    one = judged(world(result, without="supervised"))[number]
    assert one.word == OPEN
    assert one.missing
    assert all(text.startswith("supervised: no record of ") for text in one.missing)


def test_missing_records_outweigh_comparisons_against(result):
    one = judged(world(result, without="moco", changes=[AGAINST[1]]))[1]
    assert "against" in {each.outcome for each in one.judged}
    assert one.word == OPEN


@pytest.mark.parametrize(("number", "role"), [(2, "c-mae"), (2, "scratch"), (3, "mae, 1 image")])
def test_a_missing_variant_is_named(result, number, role):
    one = judged(world(result, without=role))[number]
    assert one.word == OPEN
    assert one.missing == [f"{role}: no record of {SPECIES} finetune top1"]


def test_if_supervised_learned_nothing_only_claims_without_it_are_decided(result):
    one = judged(world(result, changes=[(SPECIES, "frozen", "supervised", "top1", 10)]))
    assert {n: t.word for n, t in one.items()} == {n: HOLDS if n in (2, 3) else OPEN for n in NUMBERS}


@pytest.mark.parametrize(("blocks", "last"), [(12, 3), (6, 1), (24, 6)])
def test_the_last_quarter_of_the_blocks_is_compared_and_dropped(blocks, last):
    every = {claim.number: claim for claim in claims(SPECIES, blocks)}
    protocols = {score.protocol for score in every[6].shown}
    assert f"finetune-drop{last}" in protocols
    narrow, *_, wider = every[5].comparisons
    taken = [term.score.metric for term in narrow.terms if term.role == "mae"]
    assert taken == [f"distance/{block}" for block in range(blocks - last, blocks)]
    assert sum(term.factor for term in narrow.terms) == pytest.approx(0)
    assert {t.score.metric for t in wider.terms if t.factor < 0} == {f"distance/{k}" for k in range(last)}


def test_if_mae_gains_nothing_the_similarity_is_not_decided(result):
    flat = [(SPECIES, "finetune", role, "top1", 20) for role in ("mae", "r-mae", "c-mae")]
    assert judged(world(result, changes=flat))[2].word == OPEN
    worse = [(SPECIES, "finetune", role, "top1", 10) for role in ("mae", "r-mae", "c-mae")]
    assert judged(world(result, changes=worse))[2].word == OPEN


SCORE = Score(task=SPECIES, protocol="frozen", metric="top1")


def by_hand(result, differences, roles=("mae", "simmim")):
    """A claim of a comparison for each role, whose lead over supervised is 40, 40, ... and these."""
    records = []
    for seed, lead in enumerate(differences):
        records += [record(result, (SPECIES, "frozen"), "supervised", seed, {"top1": 50.0 + seed})]
        for role in roles:
            ahead = lead if role == "mae" else 40 + lead
            numbers = {"top1": 50.0 + seed + ahead}
            records += [record(result, (SPECIES, "frozen"), role, seed, numbers)]
    ends = [(Term(factor=1, role=r, score=SCORE), Term(factor=-1, role="supervised", score=SCORE)) for r in roles]
    comparisons = tuple(Comparison(label="", terms=terms) for terms in ends)
    claim = Claim(number=0, paper="", sentence="", measure="", comparisons=comparisons)
    standings = sections(records)
    (scale,) = claims_page.scales(standings)
    return verdict(claim, claims_page.Replicates(scale, standings, lambda result: {}))


def test_the_interval_is_students_over_paired_replicates(result):
    one = by_hand(result, (1.0, 2.0, 3.0))
    first = one.judged[0].interval
    assert first.mean == pytest.approx(2)
    assert first.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)  # t of 2 degrees
    assert [each.outcome for each in one.judged] == ["open", "for"]
    assert by_hand(result, (2.0, 3.0, 4.0)).word == HOLDS


def test_against_needs_bonferronis_correction(result):
    # 2.6 is beyond 4.303 / sqrt(3) = 2.48, and short of 6.205 / sqrt(3) = 3.58.
    assert by_hand(result, (-1.6, -2.6, -3.6)).word == OPEN
    assert by_hand(result, (-2.7, -3.7, -4.7)).word == FAILS
    assert by_hand(result, (-1.6, -2.6, -3.6), roles=("mae",)).word == FAILS


def test_equal_scores_are_open_and_rounding_errors_are_ignored(result):
    assert by_hand(result, (0.0, 0.0, 0.0), roles=("mae",)).judged[0].outcome == "open"
    assert by_hand(result, (1e-13, 1e-13, 1e-13), roles=("mae",)).judged[0].outcome == "open"
    assert by_hand(result, (1e-6, 1e-6, 1e-6), roles=("mae",)).word == HOLDS


def test_an_outcome_open_only_by_correction_is_named(result):
    leads = ((-1.6, -2.6, -3.6), (-2.7, -3.7, -4.7), (-1.0, 0.0, 1.0), (2.0, 3.0, 4.0))
    judged = [by_hand(result, each).judged[0] for each in leads]
    outcomes = [claims_page._outcome_cell(one, one.interval) for one in judged]
    assert outcomes == ["against, but not after correction", "against", "\N{EN DASH}", "as claimed"]


def test_a_diverged_replicate_is_not_dropped(result):
    one = by_hand(result, (2.0, 3.0, math.nan), roles=("mae",))
    assert one.word == OPEN
    assert math.isnan(one.judged[0].interval.mean)


def test_a_replicate_is_the_mean_over_its_evaluation_seeds(result):
    records = world(result)
    twice = [
        dataclasses.replace(r, seed=r.seed + 10, metrics={k: v + 2 for k, v in r.metrics.items()})
        for r in records
        if r.task == SPECIES and r.protocol["name"] == "frozen" and r.backbone["name"] == "mae-0"
    ]
    standings = sections([*records, *twice])
    (scale,) = claims_page.scales(standings)
    values = claims_page.Replicates(scale, standings, lambda _: {}).values("mae", SCORE).by_replicate
    once = claims_page.Replicates(scale, sections(records), lambda _: {}).values("mae", SCORE)
    assert values[0] == pytest.approx(once.by_replicate[0] + 1)
    assert values.keys() == {0, 1, 2}


def test_a_backbone_pretrained_twice_is_one_replicate_and_other_settings_are_not_mixed_in(result):
    records = world(result)
    frozen = [r for r in records if (r.task, r.protocol["name"]) == (SPECIES, "frozen")]
    (one,) = [r for r in frozen if r.backbone["name"] == "mae-0"]
    other = {**one.backbone, "name": "mae-again", "weights_sha256": "ab" * 32}
    again = dataclasses.replace(one, backbone=other, metrics={"top1": one.metrics["top1"] + 1})
    standings = sections([*records, again])
    (scale,) = claims_page.scales(standings)
    values = claims_page.Replicates(scale, standings, lambda _: {}).values("mae", SCORE).by_replicate
    assert values[0] == pytest.approx(one.metrics["top1"] + 0.5)
    assert len(values) == 3

    made = json.loads(other["pretraining"]["pretraining"])
    made["method"]["mask_ratio"] = 0.5
    changed = {**other, "pretraining": {"pretraining": json.dumps(made)}}
    one = judged([*records, dataclasses.replace(again, backbone=changed)])[4]
    assert one.word == OPEN
    assert "mae-again@abababab were pretrained with different settings" in one.missing[0]


@pytest.mark.parametrize(
    ("name", "data", "blocks"),
    [("claims", "species", 6), ("claims-gpu", "species", 12), ("claims-gpu", "tiny-imagenet-200", 12)],
)
def test_the_suite_has_every_run_that_a_claim_compares(name, data, blocks):
    """Every role at every score, three times, so that nothing is missing when it is done."""
    wanted = suite.load(name)
    covered = SPECIES if data == "species" else "classification/tiny-imagenet"
    for claim in claims(covered, blocks):
        for comparison in (*claim.preconditions, *claim.comparisons):
            for term in comparison.terms:
                found = replicated(wanted, data, term)
                assert found >= {0, 1, 2}, (claim.number, comparison.label, term.role)


def replicated(wanted, data, term):
    found = set()
    for evaluation in wanted.evaluations:
        task, protocol = term.score.task, term.score.protocol
        if task not in evaluation.tasks or protocol not in evaluation.protocols:
            continue
        if term.role == "scratch":
            found |= set(range(evaluation.replicates)) if evaluation.backbones else set()
        own = [p for p in wanted.pretrainings if role(p, data) == term.role]
        found |= {p.seed for p in own if evaluation.replicates and evaluation.takes(p, p.seed)}
    return found


def role(made, data):
    images, method = made.value_of("--images", ""), made.value_of("--method", "")
    if made.value_of("--data", "") != data or "--reconstruction-weight" in made.arguments:
        return ""
    return f"{method}, {images} image{'s' * (images != '1')}" if images else method

"""Fingerprints of what is planned."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_desk import Desk

from bench.datasets.dataset import Dataset
from bench.errors import UserError
from bench.runs import plan


@pytest.fixture
def request_of_toys(desk: Desk) -> plan.Request:
    return desk.request(backbones=("test_vit", "mean"))


def test_two_families_read_different_files_of_one_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("boxes.json", "persons.json"):
        (tmp_path / name).write_text(name)
    boxes = Dataset(name="coco", source="", licence="", root=".", splits={"val": ("boxes.json",)})
    persons = replace(boxes, splits={"val": ("persons.json",)})
    of = plan._planned_fingerprints(tmp_path)
    assert [of(boxes), of(persons)] == [d.fingerprint(tmp_path) for d in (boxes, persons)]
    assert of(boxes) != of(persons)


def test_a_baseline_is_compared_with_backbones_under_one_digest(request_of_toys: plan.Request) -> None:
    vit, mean = plan.runs(request_of_toys)
    assert mean.digest == vit.digest
    assert (mean.backbone.name, mean.backbone.method) == ("mean", "baseline")
    assert mean.backbone.weights is None
    assert mean.key.path.parent.name == "mean@baseline"


@pytest.mark.parametrize("tasks", [("toy/line", "depth"), ("depth", "toy/line")])
def test_a_baseline_that_a_task_does_not_have_is_refused(request_of_toys: plan.Request, tasks: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"mean is .* a baseline of toy/line; depth/scenes has none"):
        plan.runs(replace(request_of_toys, tasks=tasks))


def test_a_baseline_of_another_family_is_told_from_a_misspelt_backbone(request_of_toys: plan.Request) -> None:
    others = replace(request_of_toys, tasks=("depth",), backbones=("mean",))
    with pytest.raises(UserError, match=r"a baseline of toy/line; depth/scenes has none\. "):
        plan.runs(others)
    with pytest.raises(UserError, match="Unknown backbone 'maen'"):
        plan.runs(replace(others, backbones=("maen",)))


def test_weights_of_a_backbone_that_stays_as_it_is_are_not_kept(request_of_toys: plan.Request) -> None:
    kept = replace(request_of_toys, keep_weights=True)
    with pytest.raises(UserError, match=r"frozen of toy/line leaves the backbone unchanged"):
        plan.runs(kept)
    tuned, _ = plan.runs(replace(kept, protocol="parabola"))
    assert tuned.keep_weights
    assert tuned.key == plan.runs(replace(request_of_toys, protocol="parabola"))[0].key

"""Real occluders, at the fractions that the annotations say."""

import json
from pathlib import Path

import pytest
from analysis_jobs import job

from adapters.analysis import hiding
from bench.scenes import layout
from bench.scenes.render import render

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pairs_of_real_occluders(world: Path) -> None:
    """Fractions are those of the annotations; the whole image shows all of the thing, in the same place."""
    manifest = json.loads((world / "manifest.json").read_text())["recipe"]
    scenes = [layout.scene(manifest["seed"], "val", k) for k in range(manifest["val"])]
    annotated = json.loads((world / "annotations/instances_val.json").read_text())["annotations"]
    known = {a["visible_fraction"] for a in annotated}
    found = hiding.pairs(scenes, manifest["size"])
    assert len(found) > 5
    for pair in found:
        assert round(pair.fraction, 6) in known
        assert 0 < pair.fraction < 1
        assert pair.occluded.shape == pair.whole.shape == (*pair.visible.shape, 3)
        assert pair.visible.any()
        same = (pair.occluded == pair.whole).all(2)[pair.visible].mean()
        assert same > 0.5  # but for shadows and smoothed edges
        assert (pair.occluded != pair.whole).any()


def test_the_whole_image_shows_the_thing_entirely(world: Path) -> None:
    manifest = json.loads((world / "manifest.json").read_text())["recipe"]
    scenes = [layout.scene(manifest["seed"], "val", k) for k in range(6)]
    for scene, picture in zip(scenes, render(scenes, manifest["size"]), strict=True):
        for index in range(len(scene.things)):
            if hiding._is_hidden(scene, picture, index):
                whole = hiding._uncovered(scene, picture, index, "cpu")
                seen = whole.thing[picture.alone[index]]
                (shown,) = {int(k) for k in seen} - {-1}
                assert whole.alone[shown].sum() == picture.alone[index].sum()


def test_real_occluders_from_job_to_curves(scenes: Path) -> None:
    work = job("occlusion", scenes, "test_vit", "frozen-occluders", batch_size=4, ratios=(0.0, 0.3))
    outcome = work.task.evaluate(work)
    assert outcome.curves["hidden"][0] == 0
    assert len(outcome.curves["hidden"]) >= 2
    assert outcome.curves["CKA/2"][0] == 1
    assert all(value < 1 for value in outcome.curves["CKA/2"][1:])
    assert "knn_whole" not in outcome.metrics

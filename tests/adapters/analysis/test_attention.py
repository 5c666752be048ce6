"""Attention as a task: what its record has, and what lies beside it."""

import json
from pathlib import Path

import pytest
from analysis_jobs import job

from adapters.analysis import ATTENTION, WITH_PREFIX
from bench.backbones.backbone import Backbone
from bench.errors import UserError
from bench.run import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_record_has_every_layer_and_head(scenes: Path) -> None:
    work = job("attention", scenes, "test_vit")
    outcome = work.task.evaluate(work)
    assert outcome.metrics.keys() >= {metric.name for metric in work.task.metrics}
    assert len(outcome.curves["KL/5"]) == 2
    assert outcome.metrics["distance/3"] == pytest.approx(sum(outcome.curves["distance/3"]) / 2)
    last = [outcome.metrics[f"KL/{block}"] for block in (3, 4, 5)]
    assert outcome.metrics["KL_last3"] == pytest.approx(sum(last) / 3)
    assert (work.work_dir / "beside/heads.png").read_bytes().startswith(b"\x89PNG")
    assert outcome.images_per_second > 0


def test_prefix_tokens_count_as_queries_on_demand(scenes: Path) -> None:
    one, two = (job("attention", scenes, "test_vit", p.name) for p in (ATTENTION, WITH_PREFIX))
    without, with_prefix = one.task.evaluate(one).metrics, two.task.evaluate(two).metrics
    assert without["distance"] == with_prefix["distance"]
    assert without["entropy"] != with_prefix["entropy"]


def test_fewer_images_than_the_estimator_needs(scenes: Path) -> None:
    work = job("attention", scenes, "test_vit", limit=3)
    with pytest.raises(UserError, match=r"There are 3 images.*needs at least 4"):
        work.task.evaluate(work)


@pytest.mark.long
def test_from_the_command_line_to_a_picture_beside_the_record(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On folders of images, with the seed's own; attention and similarity in one pass."""
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(world / "species" / split)
    results = tmp_path / "results"
    asked = ["--backbone", "test_vit", "--data-root", str(tmp_path / "data"), "--task"]
    asked += ["analysis/attention-folder", "analysis/similarity-folder", "--results", str(results)]
    assert main([*asked, "--work-dir", str(tmp_path / "runs"), "--smoke"]) == 0
    (record,) = results.glob("analysis/attention-folder/*/*.json")
    assert json.loads(record.read_text())["primary"] == "distance"
    assert record.with_name(f"{record.stem}.heads.png").is_file()
    (record,) = results.glob("analysis/similarity-folder/*/*.json")
    assert record.with_name(f"{record.stem}.similarity.png").is_file()
    assert record.with_name(f"{record.stem}.grams.npz").is_file()
    assert len(list((tmp_path / "runs/analysis").glob("*.pt"))) == 1


def test_normalisation_is_the_weights_own(scenes: Path) -> None:
    grey = Backbone(name="grey", arch="test_vit", mean=(0.9, 0.9, 0.9), std=(0.1, 0.1, 0.1))
    one = job("attention", scenes, "test_vit")
    two = job("attention", scenes, "test_vit", backbone=grey)
    assert one.task.evaluate(one).metrics != two.task.evaluate(two).metrics

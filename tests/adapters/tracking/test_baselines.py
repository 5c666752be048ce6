"""The trackers that learn nothing, from their boxes to the record of a run."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from moving_squares import GroundTruth, read_lasot, write_lasot

from adapters.tracking import TASKS, baselines
from adapters.tracking.baselines import ConstantPosition, CrossCorrelation
from adapters.tracking.datasets import GOT10K, HEADLINES, LASOT, Videos
from adapters.tracking.evaluation import follow
from adapters.tracking.metric import score
from bench.backbones.backbone import Backbone
from bench.errors import UserError
from bench.tasks import Job, Metric, Protocol, Task

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneSplit(Protocol):
    reported_on: str


def job(folder: Path, baseline: str, dataset: Videos = LASOT, split: str = "test") -> Job:
    protocol = OneSplit(name="none", frozen=True, source="", epochs=0, batch_size=1, img_size=64, reported_on=split)
    task = Task(
        name=f"tracking/{dataset.name}",
        version=1,
        dataset=dataset,
        protocols=(protocol,),
        metrics=tuple(Metric(name=name) for name in HEADLINES[dataset.definitions[0]]),
        upstream=lambda task, protocol: {},
        evaluate=baselines.run,
    )
    return Job(
        backbone=Backbone(name=baseline, arch=baseline, method="baseline"),
        task=task,
        protocol=protocol,
        seed=0,
        data=folder,
        train_data=folder,
        work_dir=folder.parent / "work",
        cache=folder.parent / "cache",
        device="cpu",
        num_workers=0,
    )


def test_the_constant_tracker_stays_and_the_truth_bounds_all(tmp_path: Path) -> None:
    videos = read_lasot(write_lasot(tmp_path))
    for video in videos:
        still = follow(ConstantPosition(), video).boxes
        np.testing.assert_array_equal(still, np.tile(video.boxes[0], (6, 1)))
    scores = {
        name: score(("lasot", "got10k"), videos, {v.name: follow(make(), v).boxes for v in videos})
        for name, make in (
            ("still", ConstantPosition),
            ("matched", CrossCorrelation),
            ("true", lambda: GroundTruth(videos)),
        )
    }
    assert scores["true"]["AO"] == 100
    assert scores["true"]["SUC"] == pytest.approx(100 * 20 / 21)
    for name, value in scores["still"].items():
        assert value <= scores["matched"][name] <= scores["true"][name]
    # The square moves by (2, 1) a frame: it shares (12 - 2k)(12 - k) of its 144 pixels with its first place.
    shared = [(12 - 2 * k) * (12 - k) for k in range(1, 6)]
    assert scores["still"]["AO"] == pytest.approx(100 * np.mean([s / (288 - s) for s in shared]))


def test_correlation_finds_what_moves_over_a_still_scene_to_the_pixel(tmp_path: Path) -> None:
    (video, _) = read_lasot(write_lasot(tmp_path, frames=12))
    track = follow(CrossCorrelation(), video)
    np.testing.assert_array_equal(track.boxes, video.boxes)
    assert (track.confidences > 0.9).all()


def test_correlation_keeps_the_fraction_of_a_pixel_and_to_the_frame() -> None:
    random = np.random.default_rng(0)
    scene = random.integers(0, 256, (60, 80, 3), np.uint8)
    tracker = CrossCorrelation()
    first = np.array([30.25, 20.5, 11.0, 9.25])
    tracker.start(scene, first)
    for shift in [(3, -2), (9, 4), (20, 8)]:
        moved = np.roll(scene, shift[::-1], (0, 1))
        box, confidence = tracker.track(moved)
        np.testing.assert_allclose(box, first + np.array([*shift, 0, 0]))
        assert confidence == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("box", [(-5.5, -3, 20, 15), (70, 50, 30, 30), (-5, -5, 99, 99)])
def test_boxes_over_the_border_and_flat_pictures_are_tracked(box: tuple[float, ...]) -> None:
    for frame in (np.zeros((60, 80, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)):
        tracker = CrossCorrelation()
        tracker.start(frame, np.array(box, float))
        found, confidence = tracker.track(frame)
        assert np.isfinite(found).all()
        assert 0 <= confidence <= 1
        if frame.any():
            np.testing.assert_allclose(found, box)
    smaller, confidence = tracker.track(frame[:5, :5])
    assert confidence == 0
    assert (smaller == found).all()


def test_a_run_of_a_baseline(tmp_path: Path) -> None:
    work = job(write_lasot(tmp_path / "data"), "cross-correlation")
    outcome = work.task.evaluate(work)
    assert outcome.metrics["SUC"] == pytest.approx(100 * 20 / 21)
    assert (outcome.metrics["sequences"], outcome.metrics["sequences_left_out"]) == (2, 0)
    assert outcome.metrics["FPS"] > 1
    assert outcome.selection.reported_on == "test"
    assert outcome.train_seconds == 0


def test_a_run_says_how_many_and_which_sequences_it_is_not_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_lasot(tmp_path / "data", ("ball-1", "box-1", "box-2"))
    (folder / "ball/ball-1/groundtruth.txt").write_text("1,1,5,5")
    (folder / "box/box-1/img/00000005.jpg").write_bytes(b"")
    outcome = baselines.run(job(folder, "constant-position"))
    assert (outcome.metrics["sequences"], outcome.metrics["sequences_left_out"]) == (1, 2)
    reported = "test, without 2 of 3 sequences: ball-1, box-1"
    assert outcome.selection.reported_on == reported
    assert "6 frames, but 1 entries in groundtruth.txt" in caplog.text
    assert "00000005.jpg" in caplog.text

    (folder / "box/box-2/groundtruth.txt").write_text("")
    (folder / "box/box-1/groundtruth.txt").unlink()
    with pytest.raises(UserError, match="None of the 3 listed sequences"):
        baselines.run(job(folder, "constant-position"))


def test_answers_that_a_server_has_are_written_for_it(tmp_path: Path) -> None:
    folder, home = tmp_path / "got10k", tmp_path / "got10k/test/one"
    lasot = write_lasot(tmp_path / "lasot", ("ball-1",))
    home.mkdir(parents=True)
    for frame in (lasot / "ball/ball-1/img").iterdir():
        frame.rename(home / frame.name)
    (home / "groundtruth.txt").write_text("6,8,12,12")
    (folder / "test/list.txt").write_text("one")
    work = job(folder, "cross-correlation", GOT10K)
    outcome = baselines.run(work)
    assert math.isnan(outcome.metrics["AO"])
    assert "whose answers a server has: not scored here" in outcome.selection.reported_on
    assert (work.work_dir / "submission.zip").is_file()

    (folder / "test/list.txt").write_text("one\ntwo")
    with pytest.raises(UserError, match="The sequence two is left out"):
        baselines.run(work)


def test_every_task_has_both() -> None:
    assert {task.baselines for task in TASKS} == {tuple(baselines.TRACKERS)}

"""Keypoint scores against their definition, pycocotools and cases worked by hand."""

import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpose.registry import DATASETS

from adapters.pose import train  # registers what mmpose needs
from adapters.pose.metric import KeypointAPMetric, PCKMetric

assert train
Person = dict[str, Any]
COCO_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def meta(upstream: str) -> Any:
    names = Path(DATASETS.get(upstream).METAINFO["from_file"]).name
    info = {"from_file": str(train.INSTALLED_NAMES / names)}
    return DATASETS.get(upstream)(metainfo=info, lazy_init=True).metainfo


def person(image: int, side: float, rng: np.random.Generator, joints: int = 17) -> Person:
    """Somebody in a box of side x 2 side, about a third of the joints unlabelled."""
    box = np.array([*rng.uniform(10, 60, 2), side, 2 * side])
    points = np.c_[box[:2] + rng.random((joints, 2)) * box[2:], rng.integers(0, 3, joints)]
    points[0, 2] = 2
    points[points[:, 2] == 0] = 0
    return {
        "image_id": image,
        "bbox": box.tolist(),
        "area": float(0.6 * box[2] * box[3]),
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def write(file: Path, people: list[Person], images: Mapping[int, Mapping[str, Any]]) -> Path:
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 640, "height": 480, **more} for i, more in images.items()
        ],
        "categories": [{"id": i, "name": f"kind {i}"} for i in (1, 2)],
        "annotations": [{"id": n, "iscrowd": 0, "category_id": 1, **a} for n, a in enumerate(people, 1)],
    }
    file.write_text(json.dumps(content))
    return file


def predicted(number: int, truth: Person, points: Any, score: float = 1.0) -> dict[str, Any]:
    """What mmpose's evaluator hands to a metric for one box."""
    box = np.asarray(truth["bbox"])
    labelled = np.asarray(truth["keypoints"]).reshape(1, -1, 3)
    return {
        "id": number,
        "img_id": truth["image_id"],
        "category_id": np.array(truth.get("category_id", 1)),
        "pred_instances": {"keypoints": np.asarray(points)[None, :, :2], "keypoint_scores": np.ones((1, len(points)))},
        "gt_instances": {
            "bbox_scores": np.array([score]),
            "bbox_scales": box[None, 2:] * 1.25,
            "bboxes": np.r_[box[:2], box[:2] + box[2:]][None],
            "keypoints": labelled[..., :2],
            "keypoints_visible": (labelled[..., 2] > 0).astype(float),
        },
    }


def points_of(truth: Person) -> np.ndarray:
    return np.asarray(truth["keypoints"]).reshape(-1, 3)


def measure(
    file: Path, samples: list[dict[str, Any]], upstream: str = "CocoDataset", **settings: Any
) -> dict[str, float]:
    metric = KeypointAPMetric(ann_file=str(file), **settings)
    metric.dataset_meta = meta(upstream)
    metric.process({}, samples)
    return metric.evaluate(len(samples)) if samples else metric.compute_metrics([])


SETS = {
    "CocoDataset": (17, {}),
    "CrowdPoseDataset": (14, {"by_crowding": True, "use_area": False}),
    "AP10KDataset": (17, {}),
}


@pytest.mark.parametrize("upstream", SETS)
def test_ground_truth_fed_back_is_100(tmp_path: Path, upstream: str) -> None:
    """Small and large persons of two categories, a crowd region, and every level of crowding."""
    joints, settings = SETS[upstream]
    rng = np.random.default_rng(0)
    people = [{**person(i, (40, 120)[i % 2], rng, joints), "category_id": 1 + i // 2 % 2} for i in range(6)]
    if upstream == "CrowdPoseDataset":
        people = [{k: v for k, v in a.items() if k != "area"} for a in people]
    crowd = {**person(0, 50, rng, joints), "iscrowd": 1}
    images = {i: {"crowdIndex": (0.1, 0.5, 0.9)[i % 3]} for i in range(7)}
    file = write(tmp_path / "truth.json", [*people, crowd], images)

    scores = measure(file, [predicted(n, a, points_of(a)) for n, a in enumerate(people)], upstream, **settings)
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0))
    assert len(scores) == (9 if settings else 10)


REAL = {
    "coco": ("coco/annotations/person_keypoints_val2017.json", "CocoDataset"),
    "crowdpose": ("crowdpose/annotations/mmpose_crowdpose_test.json", "CrowdPoseDataset"),
    "ap10k": ("ap10k/annotations/ap10k-test-split1.json", "AP10KDataset"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_ground_truth_fed_back_is_100(name: str) -> None:
    path, upstream = REAL[name]
    file = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[4] / "shared/data")) / path
    if not file.is_file():
        pytest.skip(f"no real annotations: {file} does not exist (set BENCH_DATA)")
    people = [a for a in json.loads(file.read_text())["annotations"] if a["num_keypoints"]]
    samples = [predicted(n, a, points_of(a)) for n, a in enumerate(people)]
    scores = measure(file, samples, upstream, **SETS[upstream][1])

    numbers = [value for value in scores.values() if not math.isnan(value)]
    assert len(numbers) > 6
    assert numbers == pytest.approx([100] * len(numbers))


# Runs where nothing answers to pycocotools' name but pycocotools.
ORACLE = """
import contextlib, io, json
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO({truth!r})
    found = json.load(open({found!r}))
    run = COCOeval(truth, truth.loadRes(found), "keypoints")
    run.evaluate(); run.accumulate(); run.summarize()
assert COCOeval.__module__ == "pycocotools.cocoeval" and "faster" not in str(COCO.__init__.__code__)
print(json.dumps(run.stats.tolist()))
"""


def test_random_predictions_score_as_pycocotools_says(
    tmp_path: Path, python: Callable[[str], "subprocess.CompletedProcess[str]"]
) -> None:
    """With missed and invented persons, crowds, persons without keypoints, images without persons."""
    rng = np.random.default_rng(1)
    people = [person(i % 20, rng.choice([30, 70, 150]), rng) for i in range(60)]
    for truth in people[::10]:
        truth["iscrowd"] = 1
    for truth in people[5::15]:
        truth |= {"keypoints": [0] * 51, "num_keypoints": 0}
    file = write(tmp_path / "truth.json", people, {i: {} for i in range(25)})

    samples, records = [], []
    for number, truth in enumerate(people[:-6]):  # six are missed, one in five is invented
        side = truth["bbox"][2]
        points = points_of(truth)[:, :2] + rng.normal(0, rng.uniform(0.005, 0.1) * side, (17, 2))
        image = int(rng.integers(0, 25)) if number % 5 == 4 else truth["image_id"]
        score = float(rng.random())
        samples.append(predicted(number, {**truth, "image_id": image}, points, score))
        triples = np.c_[points, np.ones(17)].ravel().tolist()
        records.append({"image_id": image, "category_id": 1, "keypoints": triples, "score": score})
    found = tmp_path / "found.json"
    found.write_text(json.dumps(records))
    done = python(ORACLE.format(truth=str(file), found=str(found)))
    assert done.returncode == 0, done.stderr

    ours = measure(file, samples)
    theirs = dict(zip(COCO_NAMES, (100 * np.array(json.loads(done.stdout))).tolist(), strict=True))
    assert 10 < ours["AP"] < 90
    assert {name: ours[name] for name in COCO_NAMES} == pytest.approx(theirs, abs=1e-4)


def test_nobody_found_is_0_and_nobody_there_is_no_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    file = write(tmp_path / "truth.json", [person(0, 40, rng)], {0: {}, 1: {}})

    scores = measure(file, [])
    assert {n for n, value in scores.items() if math.isnan(value)} == {"APl", "ARl"}
    assert all(scores[name] == 0 for name in COCO_NAMES if name not in ("APl", "ARl"))


def test_crowding_splits_as_crowdposes_own_evaluation(tmp_path: Path) -> None:
    """One person an image: found, or not. 0.15 is easy (below 0.2), 0.2 medium, 0.8 hard."""
    rng = np.random.default_rng(3)
    index = {0: 0.0, 1: 0.15, 2: 0.2, 3: 0.5, 4: 0.79, 5: 0.8, 6: 1.0}
    people = [person(i, 60, rng, 14) for i in index]
    file = write(tmp_path / "truth.json", people, {i: {"crowdIndex": v} for i, v in index.items()})

    right = [predicted(i, people[i], points_of(people[i])) for i in (0, 1, 2, 5)]
    scores = measure(file, right, "CrowdPoseDataset", by_crowding=True, use_area=False)
    # AP at a recall of r, all of it right: the recalls 0, .01, ... up to r, of 101.
    expected = {"easy": 101, "medium": 34, "hard": 51}
    for level, steps in expected.items():
        assert scores[f"AP_{level}"] == pytest.approx(100 * steps / 101)
    assert scores["AR"] == pytest.approx(100 * 4 / 7)
    assert "APm" not in scores


def test_only_the_first_images_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    people = [person(i, 60, rng) for i in range(4)]
    file = write(tmp_path / "truth.json", people, {i: {} for i in range(4)})
    first = [predicted(i, people[i], points_of(people[i])) for i in range(2)]

    assert measure(file, first)["AR"] == pytest.approx(50)
    assert measure(file, first, limit=2)["AR"] == pytest.approx(100)


def test_pck_counts_what_is_nearer_than_a_tenth_of_the_box() -> None:
    """A box of 50x100: 9 pixels off is right, 11 wrong; unlabelled points do not count."""
    truth = {"image_id": 1, "bbox": [0, 0, 50, 100], "keypoints": [10, 10, 2, 20, 20, 1, 30, 30, 2, 0, 0, 0]}
    points = points_of(truth)[:, :2] + [[9, 0], [0, 11], [6, 6], [50, 50]]
    metric = PCKMetric(thr=0.1, norm_item="bbox")
    metric.process({}, [predicted(1, truth, points)])

    assert metric.evaluate(1) == pytest.approx({"PCK@0.1": 100 * 2 / 3})

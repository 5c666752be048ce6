"""Scores against each benchmark's definition, said again in plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
from got10k.utils.metrics import rect_iou
from numpy.typing import NDArray

from adapters.tracking.metric import score
from adapters.tracking.sequences import Sequence

SIZE = (100, 80)


def video(name: str, truth: NDArray[np.float64], absent: list[int], **attributes: list[int] | bool) -> Sequence:
    gone = np.isin(np.arange(len(truth)), absent)
    boxes = truth.copy()
    boxes[gone] = 0
    told = {k: v if isinstance(v, bool) else np.isin(np.arange(len(truth)), v) for k, v in attributes.items()}
    frames = tuple(Path(f"{k}.jpg") for k in range(len(truth)))
    return Sequence(name=name, frames=frames, size=SIZE, boxes=boxes, absent=gone, attributes=told)


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Some of them partly outside the image."""
    corner = rng.uniform(-8, [88, 68], (count, 2))
    return np.hstack([corner, rng.uniform(9, 40, (count, 2))])


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> tuple[list[Sequence], dict[str, NDArray[np.float64]]]:
    rng = np.random.default_rng(request.param)
    truth = {name: random_boxes(rng, n) for name, n in (("a", 40), ("b", 25), ("c", 7))}
    videos = [
        video("a", truth["a"], [3, 4, 5], dark=[7, 8, 9], FM=True),
        video("b", truth["b"], [], dark=[], FM=False),
        video("c", truth["c"], [6], dark=[6], FM=True),
    ]
    predicted = {name: boxes + rng.normal(0, [6, 6, 2, 2], boxes.shape) for name, boxes in truth.items()}
    predicted["a"][10:13] = 0  # empty
    predicted["b"][5] = truth["b"][5]  # perfect
    for boxes in predicted.values():
        boxes[:, 2:] = boxes[:, 2:].clip(0)
    return videos, predicted


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return min(width * height / (a[2] * a[3] + b[2] * b[3] - width * height), 1.0)


def lasot_by_loops(videos: list[Sequence], predicted: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    each = []
    for one in videos:
        overlaps, pixels, parts = [], [], []
        for k, (box, truth) in enumerate(zip(predicted[one.name], one.boxes, strict=True)):
            if one.absent[k]:
                overlaps, pixels, parts = [*overlaps, -1], [*pixels, 1e9], [*parts, 1e9]
                continue
            box = truth if k == 0 else box
            dx = box[0] + (box[2] - 1) / 2 - truth[0] - (truth[2] - 1) / 2
            dy = box[1] + (box[3] - 1) / 2 - truth[1] - (truth[3] - 1) / 2
            overlaps.append(iou(box, truth))
            pixels.append(math.hypot(dx, dy))
            parts.append(math.hypot(dx / truth[2], dy / truth[3]))
        curve = [sum(o > k / 20 for o in overlaps) / len(overlaps) for k in range(21)]
        each.append(
            (sum(curve) / 21, sum(p <= 20 for p in pixels) / len(pixels), sum(p <= 0.2 for p in parts) / len(parts))
        )
    return {name: 100 * sum(one[k] for one in each) / len(each) for k, name in enumerate(("SUC", "P", "Pnorm"))}


def got10k_by_loops(
    videos: list[Sequence], predicted: dict[str, NDArray[np.float64]], having: str = ""
) -> dict[str, float]:
    found = []
    for one in videos:
        for k in range(1, len(one.boxes)):
            if one.absent[k] or (having and not (np.zeros(len(one.boxes), bool) | one.attributes[having])[k]):
                continue
            cut = []
            for x, y, w, h in (predicted[one.name][k], one.boxes[k]):
                x, y = min(max(x + 1, 0), SIZE[0]), min(max(y + 1, 0), SIZE[1])
                cut.append(np.array([x, y, min(w, SIZE[0] - x), min(h, SIZE[1] - y)]))
            found.append(iou(*cut))
    return {
        "AO": 100 * sum(found) / len(found),
        "SR0.5": 100 * sum(o > 0.5 for o in found) / len(found),
        "SR0.75": 100 * sum(o > 0.75 for o in found) / len(found),
    }


def trackingnet_by_loops(videos: list[Sequence], predicted: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    total = np.zeros(3)
    for one in videos:
        curves = np.zeros((3, 21))
        for k in range(len(one.boxes)):
            truth = np.array([round(v) for v in one.boxes[k]], float)
            box = truth if k == 0 else np.array([round(v) for v in predicted[one.name][k]], float)
            dx = box[0] + (box[2] + 1) / 2 - truth[0] - (truth[2] + 1) / 2
            dy = box[1] + (box[3] + 1) / 2 - truth[1] - (truth[3] + 1) / 2
            for t in range(21):
                curves[0, t] += iou(box, truth) >= np.linspace(0, 1, 21)[t]
                curves[1, t] += math.hypot(dx, dy) <= 2.5 * t
                curves[2, t] += math.hypot(dx / truth[2], dy / truth[3]) <= 0.025 * t
        total += np.trapezoid(curves / len(one.boxes), dx=0.05, axis=1) / len(videos)
    return dict(zip(("SUC", "P", "Pnorm"), (100 * total).tolist(), strict=True))


def overall(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if "/" not in name}


def test_lasot_on_random_boxes(case: tuple[list[Sequence], dict[str, NDArray[np.float64]]]) -> None:
    scores = score(("lasot",), *case)
    assert overall(scores) == pytest.approx(lasot_by_loops(*case))
    dark = [one for one in case[0] if one.name != "b"]
    assert scores["SUC/dark"] == pytest.approx(lasot_by_loops(dark, case[1])["SUC"])
    assert scores["SUC/FM"] == scores["SUC/dark"]


def test_got10k_on_random_boxes(case: tuple[list[Sequence], dict[str, NDArray[np.float64]]]) -> None:
    scores = score(("got10k",), *case)
    assert overall(scores) == pytest.approx(got10k_by_loops(*case))
    for name in ("dark", "FM"):
        assert scores[f"AO/{name}"] == pytest.approx(got10k_by_loops(*case, name)["AO"])


def test_trackingnet_on_random_boxes(case: tuple[list[Sequence], dict[str, NDArray[np.float64]]]) -> None:
    videos = [video(one.name, case[1][one.name] + 3, []) for one in case[0]]
    for one in videos:
        one.boxes[:, 2:] = one.boxes[:, 2:].clip(5)
    assert score(("trackingnet",), videos, case[1]) == pytest.approx(trackingnet_by_loops(videos, case[1]))


def test_otb_is_lasot_without_what_it_has_not(case: tuple[list[Sequence], dict[str, NDArray[np.float64]]]) -> None:
    lasot, otb = score(("lasot",), *case), score(("otb",), *case)
    assert "Pnorm" not in otb
    assert {**lasot, **otb} == lasot


def test_the_truth_has_the_highest_scores_that_there_are() -> None:
    truth = random_boxes(np.random.default_rng(0), 20)
    here, gone = video("here", truth, []), video("gone", truth, list(range(10, 20)))
    predicted = {"here": truth, "gone": truth}
    best = {"SUC": 100 * 20 / 21, "P": 100, "Pnorm": 100, "AO": 100, "SR0.5": 100, "SR0.75": 100}

    assert score(("lasot", "got10k"), [here], predicted) == pytest.approx(best)
    half = score(("lasot", "got10k"), [gone], predicted)
    assert half["SUC"] == pytest.approx(best["SUC"] / 2)  # absent frames are LaSOT's misses
    assert half["AO"] == pytest.approx(100)  # and none of GOT-10k's frames
    assert score(("trackingnet",), [here], predicted)["SUC"] == pytest.approx(100)


def test_boxes_elsewhere_or_empty_score_the_first_frame_alone() -> None:
    truth = random_boxes(np.random.default_rng(0), 20)
    for wrong in (truth + np.array([500, 500, 0, 0]), np.zeros_like(truth)):
        scores = score(("lasot", "got10k"), [video("v", truth, [])], {"v": wrong})
        assert scores["SUC"] == pytest.approx(100 * 20 / 21 / 20)
        assert scores["AO"] == 0


def test_a_hand_worked_sequence() -> None:
    """Overlaps 1 (given), 1/3 (half beside), 0: SUC counts thresholds 20 + 7 + 0 of 3 x 21."""
    truth = np.array([[10.0, 10, 20, 20]] * 3)
    boxes = np.array([[0.0, 0, 1, 1], [20, 10, 20, 20], [60, 10, 20, 20]])
    scores = score(("lasot", "got10k"), [video("v", truth, [])], {"v": boxes})
    assert scores["SUC"] == pytest.approx(100 * 27 / 63)
    assert scores["P"] == pytest.approx(200 / 3)  # 10 pixels off is near, 50 is not
    assert scores["Pnorm"] == pytest.approx(100 / 3)  # half a width is not
    assert scores["AO"] == pytest.approx(100 / 6)


def test_the_published_toolkit_agrees(case: tuple[list[Sequence], dict[str, NDArray[np.float64]]]) -> None:
    videos, predicted = case
    found = []
    for one in videos:
        base = np.array([1, 1, 0, 0])
        boxes, truth = predicted[one.name] + base, one.boxes + base
        found.append(rect_iou(boxes[1:], truth[1:], bound=SIZE)[~one.absent[1:]])
    overlaps = np.concatenate(found)
    scores = score(("got10k",), videos, predicted)
    assert scores["AO"] == pytest.approx(100 * overlaps.mean())
    assert scores["SR0.5"] == pytest.approx(100 * (overlaps > 0.5).mean())

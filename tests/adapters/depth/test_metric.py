"""Depth errors against numpy, a case by hand, and counted pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from adapters.depth import EIGEN, GARG
from adapters.depth.metric import DepthErrors, errors, measured
from adapters.depth.protocol import METRICS, WHOLE


def evaluate(
    pairs: list[tuple[np.ndarray, np.ndarray]], max_depth: float = 10.0, crop: Any = WHOLE
) -> dict[str, float]:
    metric = DepthErrors(max_depth=max_depth, crop=crop)
    for depth, truth in pairs:
        sample = {
            "pred_depth_map": {"data": torch.from_numpy(depth)[None]},
            "gt_depth_map": {"data": torch.from_numpy(truth)[None]},
        }
        metric.process({}, [sample])
    return dict(metric.evaluate(len(pairs)))


def by_numpy(depth: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The errors of one image's measured pixels, written from the papers' formulas."""
    p, t = depth.astype(float), truth.astype(float)
    d = np.log(p / t)
    worse = np.where(p > t, p / t, t / p)
    return {
        "RMSE": math.sqrt(np.mean((p - t) ** 2)),
        "delta1": np.mean(worse < 1.25),
        "delta2": np.mean(worse < 1.5625),
        "delta3": np.mean(worse < 1.953125),
        "AbsRel": np.mean(abs(p - t) / t),
        "SqRel": np.mean((p - t) ** 2 / t),
        "RMSElog": math.sqrt(np.mean(d**2)),
        "log10": np.mean(abs(d)) / math.log(10),
        "SILog": math.sqrt(np.var(d) + np.mean(d) ** 2 / 2),
    }


def test_two_pixels_by_hand() -> None:
    """1 m guessed as 2 m, and 4 m as 4 m."""
    found = errors(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 4.0]))

    assert found == pytest.approx(
        {
            "RMSE": math.sqrt(0.5),
            "delta1": 0.5,
            "delta2": 0.5,
            "delta3": 0.5,
            "AbsRel": 0.5,
            "SqRel": 0.5,
            "RMSElog": math.log(2) / math.sqrt(2),
            "log10": math.log10(2) / 2,
            "SILog": math.log(2) * math.sqrt(1 / 2 - 1 / 8),
        }
    )


def test_random_predictions_with_unknown_pixels_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 12, (5, 30, 40)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = 0
    depth = (truth + 1) * rng.lognormal(0, 0.5, truth.shape).astype(np.float32)
    known = [(t > 1e-3) & (t < 10) for t in truth]
    expected = [by_numpy(d[k], t[k]) for d, t, k in zip(depth, truth, known, strict=True)]

    found = evaluate(list(zip(depth, truth, strict=True)))
    for name in METRICS:
        assert found[name] == pytest.approx(np.mean([e[name] for e in expected]), rel=1e-6), name


def test_truth_fed_back_is_perfect() -> None:
    truth = np.random.default_rng(0).uniform(0, 12, (3, 20, 30)).astype(np.float32)
    found = evaluate([(t, t) for t in truth])

    assert {k: v for k, v in found.items() if v} == {"delta1": 1, "delta2": 1, "delta3": 1}


def test_every_image_counts_alike_however_few_pixels_it_has() -> None:
    sparse = np.zeros((10, 10), np.float32)
    sparse[0, 0] = 1
    dense = np.ones((10, 10), np.float32)

    found = evaluate([(sparse + 2, sparse), (dense, dense)])
    assert found["RMSE"] == pytest.approx((2 + 0) / 2)


def test_images_without_depth_are_left_out_and_counted() -> None:
    nothing, ones = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    found = evaluate([(ones, nothing), (ones + 1, ones), (ones, ones * 99)])

    assert (found["RMSE"], found["images_without_depth"]) == (1.0, 2.0)
    assert math.isnan(evaluate([(ones, nothing)])["RMSE"])


def test_predictions_of_zero_are_held_to_a_millimetre() -> None:
    ones = np.ones((2, 2), np.float32)

    assert evaluate([(0 * ones, ones)])["RMSElog"] == pytest.approx(math.log(1000), rel=1e-6)


@pytest.mark.parametrize(
    ("size", "crop", "rows", "columns"),
    [
        ((480, 640), EIGEN, (45, 471), (41, 601)),
        ((352, 1216), GARG, (143, 349), (43, 1172)),
        ((352, 1216), WHOLE, (0, 352), (0, 1216)),
        ((240, 320), EIGEN, (22, 235), (20, 300)),
    ],
)
def test_crops_by_counting_pixels(
    size: tuple[int, int], crop: Any, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    inside = measured(torch.ones(size), 10.0, crop)

    assert int(inside.sum()) == (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert inside[rows[0] : rows[1], columns[0] : columns[1]].all()


def test_only_depths_strictly_within_the_range_count() -> None:
    truth = torch.tensor([[0.0, 1e-3, 0.0011, 9.99, 10.0, 11.0]])

    assert measured(truth, 10.0, WHOLE).tolist() == [[False, False, True, True, False, False]]

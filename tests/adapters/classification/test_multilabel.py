"""The 11-point mean average precision of VOC2007, against its definition."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters.classification.metric import accuracies, average_precision, mean_average_precision


def stated(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """As VOC2007's report says it: at each of eleven recalls the best precision of any cut that reaches it."""
    counted = labels != 0
    order = np.argsort(-scores[counted], kind="stable")
    truth = labels[counted][order] > 0
    cuts = [truth[: k + 1] for k in range(len(truth))]
    points = [(10 * cut.sum(), cut.mean()) for cut in cuts]
    needed = [tenth * truth.sum() for tenth in range(11)]
    return float(np.mean([max(p for found, p in points if found >= least) for least in needed]))


def test_by_hand() -> None:
    """Ranked + - + (hard) -: precision 1, 1/2, 2/3, 2/4 at recalls 1/2, 1/2, 1, 1."""
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.tensor([1, -1, 1, 0, -1])
    assert average_precision(scores, labels) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(-scores, labels) == pytest.approx((11 * 1 / 2) / 11)


@pytest.mark.parametrize("seed", range(5))
def test_is_what_the_report_states(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], (60, 4), p=[0.6, 0.1, 0.3])
    scores = rng.normal(size=(60, 4)).round(1) + labels * 0.3  # some equal
    expected = 100 * np.mean([stated(scores[:, k], labels[:, k]) for k in range(4)])
    found = mean_average_precision(torch.tensor(scores), torch.tensor(labels))
    assert found == pytest.approx(expected)
    assert accuracies(torch.tensor(scores), torch.tensor(labels)) == {"mAP": found}


def test_is_mmdetection_s_11_points() -> None:
    from adapters.openmmlab import compatibility

    compatibility.prepare()
    from mmdet.evaluation.functional.mean_ap import average_precision as of_curve

    rng = np.random.default_rng(0)
    labels, scores = rng.choice([-1, 1], 64, p=[0.5, 0.5]), rng.normal(size=64)
    truth = labels[np.argsort(-scores)] > 0
    precisions = truth.cumsum() / np.arange(1, 65)
    recalls = truth.cumsum() / truth.sum()
    expected = of_curve(recalls.astype(np.float32), precisions.astype(np.float32), mode="11points")
    found = average_precision(torch.tensor(scores), torch.tensor(labels))
    assert found == pytest.approx(float(np.ravel(expected)[0]), abs=1e-6)


def test_a_recall_of_three_tenths_is_reached_by_three_of_ten() -> None:
    """0.1 * 3 is more than 3 / 10 in binary fractions."""
    labels = torch.tensor([1] * 3 + [-1] * 7 + [1] * 7)
    expected = (4 * 1 + 7 * 10 / 17) / 11
    assert average_precision(torch.linspace(1, 0, 17), labels) == pytest.approx(expected)


def test_a_class_that_occurs_nowhere_is_left_out() -> None:
    labels = torch.tensor([[1, -1], [-1, 0], [-1, -1]])
    assert mean_average_precision(torch.tensor([[3.0, 0], [2, 1], [1, 2]]), labels) == 100.0

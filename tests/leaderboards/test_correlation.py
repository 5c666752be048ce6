"""Kendall's tau, against counted pairs, and its interval, against samples of a known tau."""

import itertools
import math

import numpy as np
import pytest

from leaderboards.statistics import kendall


def test_tau_is_of_counted_pairs() -> None:
    """Of 10 pairs, 8 in order and 2 not: (8 - 2) / 10."""
    found = kendall([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert found.tau == pytest.approx(0.6)
    assert found.n == 5


def test_ties_are_as_in_tau_b() -> None:
    """(C - D) / sqrt((C + D + ties of x)(C + D + ties of y)), Kendall 1945."""
    x, y = [1, 1, 2, 3, 3, 5], [2, 1, 1, 4, 3, 3]
    signs = [
        ((a > b) - (a < b), (c > d) - (c < d)) for (a, c), (b, d) in itertools.combinations(zip(x, y, strict=True), 2)
    ]
    score = sum(one * two for one, two in signs)
    untied = [sum(side != 0 for side in column) for column in zip(*signs, strict=True)]
    assert kendall(x, y).tau == pytest.approx(score / math.sqrt(untied[0] * untied[1]))


def test_the_interval_by_hand() -> None:
    found = kendall([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    reach = 1.959964 * math.sqrt(0.437)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.6) - reach), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(0.6) + reach), abs=1e-6)
    assert not found.excludes_zero


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_than_four_have_no_tau(n: int) -> None:
    found = kendall(list(range(n)), list(range(n)))
    assert not found.known
    assert not found.excludes_zero
    assert found.n == n


def test_for_four_the_interval_is_everything() -> None:
    found = kendall([1, 2, 3, 4], [1, 2, 3, 4])
    assert (found.tau, found.low, found.high) == pytest.approx((1.0, -1.0, 1.0))


def test_a_constant_measure_has_no_tau() -> None:
    found = kendall([1, 2, 3, 4, 5], [7, 7, 7, 7, 7])
    assert not found.known
    assert found.n == 5


def test_numbers_that_are_not_finite_are_left_out() -> None:
    x = [1, 2, math.nan, 3, 4, 5, 6]
    y = [1, 2, 3, math.inf, 4, 5, 6]
    assert kendall(x, y).n == 5


def test_perfect_order_of_five_is_not_certain() -> None:
    found = kendall([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert found.tau == found.high == pytest.approx(1.0)
    assert 0 < found.low < 0.5


@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.8])
def test_the_interval_contains_the_true_value_at_its_level(n: int, tau: float) -> None:
    """For normal pairs tau is 2 / pi arcsin(rho). 600 samples: a share near 0.95."""
    rho, rng = math.sin(math.pi * tau / 2), np.random.default_rng(0)
    x = rng.standard_normal((600, n))
    y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((600, n))
    found = [kendall(a.tolist(), b.tolist()) for a, b in zip(x, y, strict=True)]
    assert np.mean([f.low <= tau <= f.high for f in found]) > 0.91

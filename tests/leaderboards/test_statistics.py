import itertools
import math
import random

import numpy as np
import pytest
from scipy import stats

from leaderboards.statistics import BLOCK, Interval, difference, kendall, mean_interval, rank_intervals, t_quantile, tie


def test_two_values_have_the_cauchy_quantile():
    # One degree of freedom is the Cauchy distribution: its quantile is tan(pi (p - 1/2)).
    t = math.tan(math.pi * 0.475)
    assert t == pytest.approx(12.7062, abs=1e-4)
    assert mean_interval([1.0, 3.0]).half_width == pytest.approx(t * math.sqrt(2) / math.sqrt(2))


def test_three_values_have_the_closed_quantile_of_two_degrees():
    # F(t) = 1/2 + t / (2 sqrt(2 + t^2)), solved for t.
    u = 2 * 0.975 - 1
    t = u * math.sqrt(2 / (1 - u * u))
    assert t == pytest.approx(4.3027, abs=1e-4)
    interval = mean_interval([69.0, 70.0, 71.0])
    assert interval.mean == 70.0
    assert interval.half_width == pytest.approx(t / math.sqrt(3))
    assert interval.n == 3


@pytest.mark.parametrize(("degrees", "printed"), [(4, 2.776), (9, 2.262), (19, 2.093), (30, 2.042)])
def test_quantiles_are_those_of_the_printed_table(degrees, printed):
    assert t_quantile(0.975, degrees) == pytest.approx(printed, abs=5e-4)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_is_the_one_that_the_t_test_inverts(confidence):
    values = [71.2, 69.9, 70.4, 72.8, 70.0]
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    interval = mean_interval(values, confidence)
    assert interval.half_width is not None
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)


def test_one_value_has_no_interval():
    assert mean_interval([42]) == Interval(mean=42.0, half_width=None, n=1)


@pytest.mark.parametrize("values", [[], [70.0, math.nan, 71.0], [70.0, math.inf]])
def test_a_value_that_is_not_finite_is_not_dropped(values):
    interval = mean_interval(values)
    assert math.isnan(interval.mean)
    assert interval.half_width is None
    assert interval.n == len(values)


def test_the_order_of_values_does_not_change_a_bit():
    values = [0.1, 0.2, 0.3, 1e8, -1e8, 0.7]
    assert mean_interval(values) == mean_interval(values[::-1])


A, B, C = {0: 70.0, 1: 71.0, 2: 72.5}, {0: 69.1, 1: 70.2, 2: 71.4}, {3: 60.0, 4: 69.0}


def test_shared_seeds_are_compared_in_pairs_as_the_paired_t_test_does():
    found = difference(A, B)
    low, high = stats.ttest_rel([*A.values()], [*B.values()]).confidence_interval(0.95)
    assert found.paired
    assert found.n == 3
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.excludes_zero  # their own intervals overlap by far
    assert not tie(A, B)


def test_other_seeds_are_compared_as_welchs_test_does():
    found = difference(A, C)
    test = stats.ttest_ind([*A.values()], [*C.values()], equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert not found.paired
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert tie(A, C)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({0: 70.0}, {0: 70.1, 1: 75.0}, False),  # one seed claims nothing
        ({0: 70.0}, {0: 70.0}, True),
        ({0: math.nan}, {0: math.nan}, False),
        ({0: 70.0, 1: 71.0}, {0: math.nan, 1: 70.0}, False),
        ({0: 70.0, 1: 71.0}, {0: 69.0, 1: 70.0}, False),  # apart by the same in each pair
    ],
)
def test_a_tie_is_equal_means_or_an_interval_that_contains_0(a, b, expected):
    assert tie(a, b) is tie(b, a) is expected


def ranks_by_loops(rows, higher_is_better):
    """Rank intervals from scipy's tests and Holm's correction, comparison by comparison."""
    found = []
    for index, row in enumerate(rows):
        tests = []
        for other in (o for k, o in enumerate(rows) if k != index):
            shared = sorted(row.keys() & other.keys())
            if len(shared) >= 2:
                test = stats.ttest_rel([row[s] for s in shared], [other[s] for s in shared])
            elif min(len(row), len(other)) >= 2:
                test = stats.ttest_ind([*row.values()], [*other.values()], equal_var=False)
            else:
                continue
            tests.append((test.pvalue, test.statistic > 0))
        better = worse = 0
        for place, (p, leads) in enumerate(sorted(tests)):
            if p > 0.05 / (len(tests) - place):
                break
            worse += leads == higher_is_better
            better += leads != higher_is_better
        found.append((1 + better, len(rows) - worse))
    return found


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("case", range(20))
def test_rank_intervals_are_those_of_the_tests_one_by_one(case, higher_is_better):
    random = np.random.default_rng(case)
    rows = []
    for _ in range(random.integers(2, 9)):
        seeds = random.choice(8, random.integers(1, 7), replace=False)
        level, noise = random.normal(50, 5), 10.0 ** random.uniform(-2, 1)
        rows.append({int(seed): float(random.normal(level, noise)) for seed in seeds})
    assert rank_intervals(rows, higher_is_better=higher_is_better) == ranks_by_loops(rows, higher_is_better)


def test_a_known_winner_a_known_tie_and_a_single_seed():
    winner = {0: 80.0, 1: 80.2, 2: 80.1, 3: 80.3}
    tied = [{0: 60.0, 1: 62.0, 2: 61.0, 3: 60.5}, {0: 61.0, 1: 60.5, 2: 61.5, 3: 61.2}]
    ranks = rank_intervals([winner, *tied], higher_is_better=True)
    assert ranks == [(1, 1), (2, 3), (2, 3)]
    assert rank_intervals([winner, *tied, {0: 10.0}], higher_is_better=True) == [
        (1, 2),  # the order of the fourth, a single seed, is not certain
        (2, 4),
        (2, 4),
        (1, 4),
    ]


def test_equal_values_tie_and_constant_leads_do_not():
    same, ahead = {0: 50.1, 1: 60.3}, {0: 50.2, 1: 60.4}
    assert rank_intervals([same, dict(same)], higher_is_better=True) == [(1, 2), (1, 2)]
    assert rank_intervals([same, ahead], higher_is_better=True) == [(2, 2), (1, 1)]


def test_a_diverged_row_has_no_rank():
    rows = [{0: 1.0, 1: 1.1}, {0: math.nan, 1: 2.0}, {0: 3.0, 1: 3.1}]
    assert rank_intervals(rows, higher_is_better=False) == [(1, 1), None, (2, 2)]


def test_the_rank_interval_of_a_row_is_right_in_19_of_20_tables():
    """All rows are equal in truth, so that any rank but 1 to N is an error."""
    random, wrong, tables = np.random.default_rng(0), 0, 1000
    for _ in range(tables):
        rows = [dict(enumerate(random.normal(0, 1, 4).tolist())) for _ in range(6)]
        wrong += rank_intervals(rows, higher_is_better=True)[0] != (1, 6)
    assert wrong / tables < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_rank_intervals_of_many_rows_are_those_of_pairs_one_by_one(share):
    """More rows than are compared at once, also with seeds missing; Holm's steps taken by hand on scipy's p-values."""
    draw = random.Random(1)
    rows = [
        {seed: draw.gauss(row / 9, 0.3) for seed in range(4) if seed < 2 or draw.random() < share}
        for row in range(BLOCK + 7)
    ]
    found = rank_intervals(rows, higher_is_better=True)
    assert len(set(found)) > 20
    for row, interval in zip(rows, found, strict=True):
        tests = sorted(_paired(row, other) for other in rows if other is not row)
        steps = [p <= 0.05 / (len(tests) - step) for step, (p, _) in enumerate(tests)]
        certain = [lead for _, lead in tests[: [*steps, False].index(False)]]
        behind, before = sum(lead < 0 for lead in certain), sum(lead > 0 for lead in certain)
        assert interval == (1 + behind, len(rows) - before)


def _paired(one, other):
    shared = sorted(one.keys() & other.keys())
    a, b = [one[seed] for seed in shared], [other[seed] for seed in shared]
    return stats.ttest_rel(a, b).pvalue, sum(a) - sum(b)


# Kendall's tau, against counted pairs, and its interval, against samples of a known tau.


def test_tau_is_of_counted_pairs():
    """Of 10 pairs, 8 in order and 2 not: (8 - 2) / 10."""
    found = kendall([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert found.tau == pytest.approx(0.6)
    assert found.n == 5


def test_ties_are_as_in_tau_b():
    """(C - D) / sqrt((C + D + ties of x)(C + D + ties of y)), Kendall 1945."""
    x, y = [1, 1, 2, 3, 3, 5], [2, 1, 1, 4, 3, 3]
    signs = [
        ((a > b) - (a < b), (c > d) - (c < d)) for (a, c), (b, d) in itertools.combinations(zip(x, y, strict=True), 2)
    ]
    score = sum(one * two for one, two in signs)
    untied = [sum(side != 0 for side in column) for column in zip(*signs, strict=True)]
    assert kendall(x, y).tau == pytest.approx(score / math.sqrt(untied[0] * untied[1]))


def test_the_interval_by_hand():
    found = kendall([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    reach = 1.959964 * math.sqrt(0.437)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.6) - reach), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(0.6) + reach), abs=1e-6)
    assert not found.excludes_zero


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_than_four_have_no_tau(n: int):
    found = kendall(list(range(n)), list(range(n)))
    assert not found.known
    assert not found.excludes_zero
    assert found.n == n


def test_for_four_the_interval_is_everything():
    found = kendall([1, 2, 3, 4], [1, 2, 3, 4])
    assert (found.tau, found.low, found.high) == pytest.approx((1.0, -1.0, 1.0))


def test_a_constant_measure_has_no_tau():
    found = kendall([1, 2, 3, 4, 5], [7, 7, 7, 7, 7])
    assert not found.known
    assert found.n == 5


def test_numbers_that_are_not_finite_are_left_out():
    x = [1, 2, math.nan, 3, 4, 5, 6]
    y = [1, 2, 3, math.inf, 4, 5, 6]
    assert kendall(x, y).n == 5


def test_perfect_order_of_five_is_not_certain():
    found = kendall([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert found.tau == found.high == pytest.approx(1.0)
    assert 0 < found.low < 0.5


@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.8])
def test_the_interval_contains_the_true_value_at_its_level(n: int, tau: float):
    """For normal pairs tau is 2 / pi arcsin(rho). 600 samples: a share near 0.95."""
    rho, rng = math.sin(math.pi * tau / 2), np.random.default_rng(0)
    x = rng.standard_normal((600, n))
    y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((600, n))
    found = [kendall(a.tolist(), b.tolist()) for a, b in zip(x, y, strict=True)]
    assert np.mean([f.low <= tau <= f.high for f in found]) > 0.91

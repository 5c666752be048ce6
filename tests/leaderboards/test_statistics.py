import math

import pytest
from scipy import stats

from leaderboards.statistics import Interval, mean_interval, t_quantile, tie


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


def test_order_of_values_changes_no_bit():
    values = [0.1, 0.2, 0.3, 1e8, -1e8, 0.7]
    assert mean_interval(values) == mean_interval(values[::-1])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((70.0, 1.0), (72.0, 1.0), True),  # they touch
        ((70.0, 1.0), (72.01, 1.0), False),
        ((70.0, None), (70.1, 5.0), False),  # one seed claims nothing
        ((70.0, None), (70.0, None), True),
        ((math.nan, None), (math.nan, None), False),
    ],
)
def test_tie_is_overlap_of_known_intervals_or_equal_means(a, b, expected):
    first, second = (Interval(mean=mean, half_width=half, n=3) for mean, half in (a, b))
    assert tie(first, second) is tie(second, first) is expected

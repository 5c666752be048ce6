"""The numbers a table states about a few seeds: a mean, its t interval, and when two rows tie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over `n` values; `half_width` is None where `n` values say nothing about spread."""

    mean: float
    half_width: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean and the half-width of Student's t interval (Gosset, Biometrika 1908).

    The half-width is t(n - 1) * s / sqrt(n), with s the sample standard deviation. One value has
    none; no value, or one that is not finite, makes the mean NaN: a diverged seed is not dropped.
    """
    assert 0 < confidence < 1, confidence
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Interval(mean=math.nan, half_width=None, n=n)
    if n == 1:
        return Interval(mean=float(values[0]), half_width=None, n=1)
    half_width = t_quantile((1 + confidence) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean=fmean(values), half_width=half_width, n=n)


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution with `degrees` of freedom."""
    # scipy.stats takes four times as long to import, and calls this very function.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def tie(a: Interval, b: Interval) -> bool:
    """Say whether two rows tie: equal means, or intervals (both known) that overlap."""
    if a.half_width is None or b.half_width is None:
        return a.mean == b.mean
    return abs(a.mean - b.mean) <= a.half_width + b.half_width

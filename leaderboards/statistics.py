"""What a few seeds can tell: a mean with its interval, a difference with its own, the ranks that remain possible."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Mapping[int, float]  # by seed
CONFIDENCE = 0.95
ROUNDING = 1e-12  # of the values: what differs by less differs by rounding


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over `n` values; `half_width` is None where `n` values say nothing about spread."""

    mean: float
    half_width: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
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
    mean = math.fsum(values) / n
    half_width = t_quantile((1 + confidence) / 2, n - 1) * math.sqrt(_variance(values) / n)
    return Interval(mean=mean, half_width=half_width, n=n)


def _variance(values: Sequence[float]) -> float:
    """The sample variance; sums are exact, so that no order of seeds changes a bit."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


@functools.cache
def t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution with `degrees` of freedom."""
    # scipy.stats takes four times as long to import, and calls this very function.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two means, a - b.

    Args:
        half_width: of its interval; None where one side has a single seed and nothing is paired.
        n: the pairs of seeds; unpaired, the smaller number of seeds.
        paired: whether it is the mean over the seeds that both have.
    """

    mean: float
    half_width: float | None
    n: int
    paired: bool

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def difference(a: Values, b: Values, confidence: float = CONFIDENCE) -> Difference:
    """Compare two rows by Student's paired interval over the seeds they share, else by Welch's (1947).

    A seed fixes the order of images and what is drawn, so the same seed moves two backbones alike.
    """
    shared = sorted(a.keys() & b.keys())
    if len(shared) >= 2:
        paired = mean_interval([a[seed] - b[seed] for seed in shared], confidence)
        return Difference(mean=paired.mean, half_width=paired.half_width, n=paired.n, paired=True)
    one, two = mean_interval(list(a.values())), mean_interval(list(b.values()))
    width = None
    if min(len(a), len(b)) >= 2 and math.isfinite(one.mean + two.mean):
        errors = [_variance(list(side.values())) / len(side) for side in (a, b)]
        degrees = float(_welch(errors, [len(a), len(b)]))
        width = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(sum(errors))
    return Difference(mean=one.mean - two.mean, half_width=width, n=min(one.n, two.n), paired=False)


def _welch(errors: Sequence[Any], counts: Sequence[Any]) -> Any:
    """Satterthwaite's degrees of freedom of a difference of means with these squared standard errors.

    Without any error they are of no matter: the smaller side's.
    """
    import numpy as np

    (one, two), (n, m) = np.broadcast_arrays(*errors), counts
    below = one**2 / (n - 1) + two**2 / (m - 1)
    fewest = np.broadcast_to(np.minimum(n, m) - 1.0, below.shape).copy()
    return np.divide((one + two) ** 2, below, out=fewest, where=below > 0)


def tie(a: Values, b: Values) -> bool:
    """Say whether two rows tie: equal means, or an interval of their difference that holds 0."""
    found = difference(a, b)
    return found.mean == 0 or (found.half_width is not None and not found.told_apart)


def rank_intervals(
    rows: Sequence[Values], *, higher_is_better: bool
) -> list[tuple[int, int] | None]:
    """Return for each row the first and last rank that the data allow; None for one that is not finite.

    A row ranks behind all that are better for certain and before all that are worse for certain, by the t test
    of `difference` with each other row; Holm's correction (1979) over these holds the chance of any error in
    a row's interval to 5 %. A comparison with a single seed tells nothing, and leaves every rank possible.
    """
    import numpy as np

    whole = [bool(row) and all(map(math.isfinite, row.values())) for row in rows]
    seeds = {seed: column for column, seed in enumerate(sorted({s for row in rows for s in row}))}
    table = np.full((sum(whole), len(seeds)), np.nan)
    for line, row in zip(table, (r for r, ok in zip(rows, whole, strict=True) if ok), strict=True):
        line[[seeds[seed] for seed in row]] = list(row.values())
    if not higher_is_better:
        table = -table
    alone = _moments(table)
    ranks = iter([_rank_interval(table, alone, index) for index in range(len(table))])
    return [next(ranks) if ok else None for ok in whole]


def _rank_interval(table: Any, alone: Any, index: int) -> tuple[int, int]:
    import numpy as np

    leads, sizes, degrees = _t_tests(table, alone, index)
    rejected = _holm(sizes, degrees)
    certain = leads[rejected]
    return 1 + int(np.sum(certain < 0)), len(table) - int(np.sum(certain > 0))


def _holm(sizes: Any, degrees: Any) -> Any:
    """Which of these t statistics |t| Holm's step-down test rejects; without degrees of freedom none."""
    import numpy as np
    from scipy.special import stdtr

    testable = ~np.isnan(degrees)
    found = np.unique(degrees[testable])
    rejected = np.zeros(len(sizes), bool)
    if len(found) == 1:  # critical values need no p-value of each
        order = np.sort(sizes[testable])[::-1]
        fails = np.flatnonzero(order < _critical(len(order), float(found[0])))
        rejected[testable] = sizes[testable] >= (order[fails[0] - 1] if len(fails) else 0)
        return rejected if not len(fails) or fails[0] else np.zeros(len(sizes), bool)
    p = np.where(testable, 2 * stdtr(degrees, -sizes), np.nan)
    order = np.argsort(p, kind="stable")
    levels = (1 - CONFIDENCE) / np.maximum(testable.sum() - np.arange(len(p)), 1)
    rejected[order] = np.logical_and.accumulate(p[order] <= levels)
    return rejected


@functools.cache
def _critical(number: int, degrees: float) -> Any:
    """Holm's critical values of |t|: of the largest of so many first."""
    import numpy as np
    from scipy.special import stdtrit

    return stdtrit(degrees, 1 - (1 - CONFIDENCE) / (number - np.arange(number)) / 2)


def _moments(values: Any) -> tuple[Any, Any, Any]:
    """Number, mean and squared standard error of each line, without its gaps."""
    import numpy as np

    there = ~np.isnan(values)
    n = there.sum(1)
    mean = np.where(there, values, 0).sum(1) / np.maximum(n, 1)
    square = np.where(there, values - mean[:, None], 0) ** 2
    return n, mean, square.sum(1) / np.maximum(n - 1, 1) / np.maximum(n, 1)


def _t_tests(table: Any, alone: Any, index: int) -> tuple[Any, Any, Any]:
    """By how much a row leads each other, |t| and degrees of freedom of that; NaN where nothing can be tested."""
    import numpy as np

    n, mean, error = alone
    pairs, lead, spread = _moments(table[index] - table)
    paired = pairs >= 2
    degrees = np.where(paired, pairs - 1.0, np.nan)
    degrees[index] = np.nan
    if not paired.all():
        lead = np.where(paired, lead, mean[index] - mean)
        spread = np.where(paired, spread, error + error[index])
        welch = ~paired & (n >= 2) & (n[index] >= 2)
        degrees[welch] = _welch([error[welch], error[index]], [n[welch], n[index]])
    noise, size, scale = np.sqrt(spread), np.abs(lead), ROUNDING * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(size > scale, np.inf, 0.0)
        return lead, np.where(noise > scale, size / noise, exact), degrees

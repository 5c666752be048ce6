"""Statistics over few seeds: means and differences with intervals, possible ranks, and Kendall's tau-b."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Mapping[int, float]  # by seed
CONFIDENCE = 0.95
ROUNDING = 1e-12  # relative to the values: smaller differences are rounding errors
BLOCK = 64  # rows compared with all others at a time, so that the arrays fit the processor's cache


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over `n` values; `half_width` is None if the spread cannot be estimated from them."""

    mean: float
    half_width: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean and the half-width of Student's t interval (Gosset, Biometrika 1908).

    The half-width is t(n - 1) * s / sqrt(n), with s the sample standard deviation, and None for a single value.
    Without values, or with one that is not finite, the mean is NaN: a diverged seed is not dropped.
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
    """Return the sample variance; sums are exact, so the order of seeds does not change any bit."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


@functools.cache
def t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution with `degrees` of freedom."""
    # scipy.stats takes four times as long to import and calls this function.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference a - b of two means.

    Args:
        half_width: of its interval; None if a side has a single seed and no seeds are paired.
        n: the number of pairs of seeds, or if unpaired the smaller number of seeds.
        paired: whether it is the mean difference over the seeds that both have.
    """

    mean: float
    half_width: float | None
    n: int
    paired: bool

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def difference(a: Values, b: Values, confidence: float = CONFIDENCE) -> Difference:
    """Compare two rows by Student's paired interval over the seeds they share, else by Welch's (1947).

    A seed fixes the order of images and all random draws, so it shifts two backbones in the same way.
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
    """Return Satterthwaite's degrees of freedom of a difference of means with these squared standard errors.

    If both errors are 0 the result does not matter: those of the smaller side.
    """
    import numpy as np

    (one, two), (n, m) = np.broadcast_arrays(*errors), counts
    below = one**2 / (n - 1) + two**2 / (m - 1)
    fewest = np.broadcast_to(np.minimum(n, m) - 1.0, below.shape).copy()
    return np.divide((one + two) ** 2, below, out=fewest, where=below > 0)


def tie(a: Values, b: Values) -> bool:
    """Return whether two rows tie: equal means, or an interval of their difference that contains 0."""
    found = difference(a, b)
    return found.mean == 0 or (found.half_width is not None and not found.excludes_zero)


def rank_intervals(rows: Sequence[Values], *, higher_is_better: bool) -> list[tuple[int, int] | None]:
    """Return the first and last possible rank of each row; None for a row with a value that is not finite.

    A row ranks behind all rows that are significantly better and before all that are significantly worse, by the t
    test of `difference` against every other row. Holm's correction (1979) over these tests limits the probability of
    any error in a row's interval to 5 %. A comparison with a single seed is not tested: both orders remain possible.
    """
    import numpy as np

    whole = [bool(row) and all(map(math.isfinite, row.values())) for row in rows]
    seeds = {seed: line for line, seed in enumerate(sorted({s for row in rows for s in row}))}
    table = np.full((len(seeds), sum(whole)), np.nan)  # numpy is fast along long rows
    for column, row in enumerate(row for row, ok in zip(rows, whole, strict=True) if ok):
        table[[seeds[seed] for seed in row], column] = list(row.values())
    if not higher_is_better:
        table = -table
    alone = _moments(table.copy())
    blocks = np.split(np.arange(sum(whole)), range(BLOCK, sum(whole), BLOCK))
    ranks = (rank for block in blocks for rank in _rank_intervals(table, alone, block))
    return [next(ranks) if ok else None for ok in whole]


def _rank_intervals(table: Any, alone: Any, block: Any) -> list[tuple[int, int]]:
    """Return the first and last possible ranks of the rows that `block` indexes."""
    leads, sizes, degrees = _t_tests(table, alone, block)
    rejected = _holm(sizes, degrees)
    behind, before = (rejected & (leads < 0)).sum(1), (rejected & (leads > 0)).sum(1)
    return [(int(first), int(last)) for first, last in zip(1 + behind, table.shape[1] - before, strict=True)]


def _holm(sizes: Any, degrees: Any) -> Any:
    """Return which t statistics |t| of each line Holm's step-down test rejects; none without degrees of freedom."""
    import numpy as np
    from scipy.special import stdtr

    testable = ~np.isnan(degrees)
    number, found = testable.sum(1), degrees[testable]
    if found.size and np.ptp(found) == np.ptp(number) == 0:
        # All lines share their critical values, so no p-values are needed.
        return _step_down(np.where(testable, sizes, -1.0), _critical(number[0], found[0]))
    p = np.where(testable, 2 * stdtr(degrees, -sizes), np.nan)
    order = np.argsort(p, axis=1, kind="stable")
    levels = (1 - CONFIDENCE) / np.maximum(number[:, None] - np.arange(p.shape[1]), 1)
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, 1) <= levels, axis=1)
    rejected = np.zeros(p.shape, bool)
    np.put_along_axis(rejected, order, passed, 1)
    return rejected


def _step_down(sizes: Any, critical: Any) -> Any:
    """Return which sizes of each line the test rejects: with k rejected, each is above the k-th critical value."""
    import numpy as np

    passed = np.zeros(len(sizes), int)
    while True:
        rejected = sizes >= critical[np.minimum(passed, len(critical) - 1), None]
        passed, before = np.count_nonzero(rejected, axis=1), passed
        if (passed == before).all():
            return rejected


@functools.cache
def _critical(number: int, degrees: float) -> Any:
    """Return Holm's critical values of |t| for `number` tests, that of the largest |t| first."""
    import numpy as np
    from scipy.special import stdtrit

    return stdtrit(degrees, 1 - (1 - CONFIDENCE) / (number - np.arange(number)) / 2)


def _moments(values: Any) -> tuple[Any, Any, Any]:
    """Return number, mean and squared standard error over the first axis, ignoring NaN; overwrites `values`."""
    import numpy as np

    gaps = np.isnan(values)
    n = len(values) - gaps.sum(0, dtype=np.int16)
    values[gaps] = 0
    mean = values.sum(0) / np.maximum(n, 1)
    values -= mean
    values[gaps] = 0
    square = np.einsum("s...,s...->...", values, values)
    return n, mean, square / (np.maximum(n - 1, 1) * np.maximum(n, 1.0))


def _t_tests(table: Any, alone: Any, block: Any) -> tuple[Any, Any, Any]:
    """Return by how much each row of a block leads every row, |t| and degrees of freedom; NaN if not testable."""
    import numpy as np

    n, mean, error = alone
    pairs, lead, spread = _moments(table[:, block, None] - table[:, None, :])
    paired = pairs >= 2
    degrees = np.where(paired, pairs - 1.0, np.nan)
    if not paired.all():
        lead = np.where(paired, lead, mean[block, None] - mean)
        spread = np.where(paired, spread, error + error[block, None])
        welch = ~paired & (n >= 2) & (n[block, None] >= 2)
        one, other = (block[side] if axis == 0 else side for axis, side in enumerate(welch.nonzero()))
        degrees[welch] = _welch([error[other], error[one]], [n[other], n[one]])
    degrees[np.arange(len(block)), block] = np.nan
    noise, size, scale = np.sqrt(spread), np.abs(lead), ROUNDING * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(size > scale, np.inf, 0.0)
        return lead, np.where(noise > scale, size / noise, exact), degrees


# Kendall's tau-b: do two measures rank the backbones in the same order?

FEWEST = 4  # backbones; three have only six orders
VARIANCE = 0.437  # of arctanh(tau), times n - 4: Fieller, Hartley & Pearson (Biometrika 1957)


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Kendall's tau-b (1945), -1 to 1, over n pairs; NaN for fewer than four pairs or a constant measure."""

    tau: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether tau could be computed."""
        return not math.isnan(self.tau)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def kendall(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Correlate two measures of the same backbones; pairs with a number that is not finite are left out.

    The interval is tanh(arctanh(tau) ± z sqrt(0.437 / (n - 4))), and for n = 4 all possible values. A tau of nearly
    ±1 is moved half a step of tau inwards, where arctanh is finite. In simulations the 95 % interval then contains
    the true value in 93 to 100 % of samples; without this step, or with a bootstrap over backbones, only in 64 % of
    samples of five with tau 0.8.
    """
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    n = len(pairs)
    if n < FEWEST:
        return Correlation(tau=math.nan, low=math.nan, high=math.nan, n=n)
    from scipy.special import ndtri
    from scipy.stats import kendalltau

    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    if n == FEWEST or math.isnan(tau):
        edge = math.nan if math.isnan(tau) else 1.0
        return Correlation(tau=tau, low=-edge, high=edge, n=n)
    most = 1 - 2 / (n * (n - 1))
    middle = math.atanh(min(max(tau, -most), most))
    reach = float(ndtri((1 + CONFIDENCE) / 2)) * math.sqrt(VARIANCE / (n - FEWEST))
    return Correlation(tau=tau, low=min(math.tanh(middle - reach), tau), high=max(math.tanh(middle + reach), tau), n=n)

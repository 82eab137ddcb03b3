"""How sure a number is: intervals and tests, with the unit said beside them.

The unit matters more than the method. Images of one trained network share that network, so an interval over
images says how well *this* network was measured (there are many: the bootstrap); only one over networks speaks of
networks trained anew (there are few: Student's t, of which the bootstrap's is too narrow).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from gradcam_gan.errors import InputError
from gradcam_gan.validation import choose

Average = Literal["mean", "median"]
AVERAGES: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median}
LARGEST_BCA = 200  # above it the correction is small, and its jackknife costs n * n
RESAMPLED_AT_ONCE = 2**16  # values; keeps the resamples in the processor's cache


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: the statistic of the data; NaN without data.
        low: lower bound; NaN where one unit or none leaves nothing to resample.
        high: upper bound; NaN as ``low``.
        n: number of units used.
        missing: NaN values that were dropped, counted in rows of the data whatever the unit.
        confidence: of the interval, 0..1.
        unit: what was counted: ``values``, ``images``, ``networks`` or ``pairs``.
    """

    estimate: float
    low: float
    high: float
    n: int
    missing: int = 0
    confidence: float = 0.95
    unit: str = "values"

    def __str__(self) -> str:
        """Such as ``1.23 [1.10, 1.35], n=5 networks``, rounded to two digits of the interval's width."""
        width = self.high - self.low
        if 0 < width < math.inf:
            decimals = max(0, 1 - math.floor(math.log10(width)))
            text = f"{self.estimate:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"
        elif math.isnan(width):
            text = f"{self.estimate:.4g} [no interval]"
        else:
            text = f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"
        unit = "" if self.unit == "values" else f" {self.unit}"
        missing = f" ({self.missing} values missing)" if self.missing else ""
        return f"{text}, n={self.n}{unit}{missing}"


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Average = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    unit: str = "values",
) -> Interval:
    """The bootstrap interval of a mean or median of independent values.

    Bias-corrected and accelerated (BCa; Efron 1987) for up to 200 values, percentile above and where BCa is
    undefined. Over few values the bootstrap is too narrow: of nominal 95 % intervals for the mean of 3, 5 and
    10 normal values, 74 %, 84 % and 91 % held the truth here (Student's: 94 to 96 %).

    Args:
        values: numbers, 1-D; NaN is dropped and counted.
        statistic: ``mean`` or ``median``.
        confidence: above 0, below 1.
        resamples: number of bootstrap resamples, at least 1.
        seed: of the resampling, at least 0; the same seed gives the same interval.
        unit: what a value stands for, carried into the result.

    Returns:
        The interval. Constant values have no width; fewer than two have NaN bounds.

    Raises:
        InputError: values that are not 1-D numbers or are infinite, or an option out of range.
    """
    sample, missing = _present(values, "values")
    choose("statistic", statistic, AVERAGES)
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} must lie between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InputError(f"resamples={resamples} must be at least 1; 2000 is usual")
    if seed < 0:
        raise InputError(f"seed={seed} must be 0 or above")
    bounds = _bootstrap(sample, statistic, confidence, resamples, seed)
    return Interval(*bounds, n=len(sample), missing=missing, confidence=confidence, unit=unit)


def student_interval(values: ArrayLike, confidence: float = 0.95, unit: str = "networks") -> Interval:
    """Student's t interval of the mean of one number a network; NaN values are dropped and counted.

    Returns:
        Mean ± t(n - 1) standard errors; NaN bounds below two values.

    Raises:
        InputError: values that are not 1-D numbers or are infinite.
    """
    sample, missing = _present(values, "values")
    estimate = float(sample.mean()) if len(sample) else math.nan
    half = math.nan
    if len(sample) > 1:
        quantile = stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
        half = float(quantile * sample.std(ddof=1)) / math.sqrt(len(sample))
    bounds = (estimate - half, estimate + half)
    return Interval(estimate, *bounds, n=len(sample), missing=missing, confidence=confidence, unit=unit)


def equivalent(values: ArrayLike, bound: float) -> bool:
    """Whether the mean is 0 but for ``bound``: two one-sided tests at 5 %, the 90 % interval within ± bound."""
    found = student_interval(values, 0.9)
    return -bound < found.low and found.high < bound


def sign_flip(differences: ArrayLike) -> float:
    """The exact two-sided p-value that paired differences have mean 0: of all 2^n signs; NaN below two pairs."""
    sample, _ = _present(differences, "differences")
    if len(sample) < 2:
        return math.nan
    return float(
        stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    )


def interval_over_networks(table: pd.DataFrame, value: str, seed: str = "seed") -> Interval:
    """The 95 % interval of a mean over networks, from a table with a row per image.

    Each network counts once, by its mean over images. A single network's interval is over its images (bootstrap): it
    says nothing of other networks, and its ``unit`` is ``images`` in place of ``networks``.

    Args:
        table: a row per image; NaN values are dropped and counted, a network with no value left is dropped.
        value: the numeric column to average.
        seed: the column that names the training seed of each row.

    Raises:
        InputError: a column that is missing or not numeric, or rows without a seed.
    """
    for column in (value, seed):
        choose("column", column, map(str, table.columns))
    if unnamed := int(table[seed].isna().sum()):
        raise InputError(f"column {seed!r} is empty in {unnamed} rows; every row must name its seed")
    groups = [_present(rows, f"column {value!r}") for _, rows in table.groupby(seed)[value]]
    samples = [sample for sample, _ in groups if len(sample)]
    missing = sum(dropped for _, dropped in groups)
    if len(samples) == 1:
        return replace(bootstrap_interval(samples[0], unit="images"), missing=missing)
    return replace(student_interval([sample.mean() for sample in samples]), missing=missing)


def paired_values(table: pd.DataFrame, key: str, group: str, to: str, metric: str) -> pd.Series:
    """A group's values minus another's, by seed; seeds that one of them lacks are left out.

    Args:
        table: a row per group and seed: columns ``key``, ``seed`` and the metric.
        key: the column that names the group.
        group: whose values.
        to: whose are subtracted.
        metric: the column of the values.
    """
    of = {name: table[table[key] == name].set_index("seed")[metric] for name in (group, to)}
    return (of[group] - of[to]).dropna()


def paired_differences(
    table: pd.DataFrame, key: str, pairs: Iterable[tuple[str, str]], metrics: Sequence[str]
) -> pd.DataFrame:
    """Groups minus other groups, paired by seed, in several metrics.

    Args:
        table: a row per group and seed: columns ``key``, ``seed`` and the metrics.
        key: the column that names the group.
        pairs: groups, each with the one to subtract; a pair is left out where the table lacks one of both.
        metrics: columns; one is left out where no seed has it in both groups.

    Returns:
        A row per pair and metric: ``key``, ``to``, ``metric``, and ``estimate``, ``low``, ``high`` and ``n`` of
        ``student_interval`` (NaN bounds for one seed).
    """
    rows = []
    for (group, to), metric in product(pairs, metrics):
        found = student_interval(paired_values(table, key, group, to, metric))
        if found.n:
            bounds = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append({key: group, "to": to, "metric": metric, **bounds})
    return pd.DataFrame(rows, columns=[key, "to", "metric", "estimate", "low", "high", "n"])


def _bootstrap(
    sample: np.ndarray, statistic: Average, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Estimate and bounds of a statistic of one sample."""
    function = AVERAGES[statistic]
    if not len(sample):
        return math.nan, math.nan, math.nan
    estimate = float(function(sample))
    if len(sample) < 2:
        return estimate, math.nan, math.nan
    # said here rather than left to rounding in the resampled means
    if (sample == sample[0]).all():
        return estimate, estimate, estimate
    # BCa has no bounds where too many resamples equal the estimate
    for method in ("BCa", "percentile") if len(sample) <= LARGEST_BCA else ("percentile",):
        with warnings.catch_warnings(action="ignore"):
            bounds = stats.bootstrap(
                (sample,),
                function,
                n_resamples=resamples,
                batch=max(1, RESAMPLED_AT_ONCE // len(sample)),
                confidence_level=confidence,
                method=method,
                random_state=np.random.default_rng(seed),  # called rng from SciPy 1.15 on; both work
            ).confidence_interval
        if np.isfinite(bounds).all():
            break
    return estimate, float(bounds.low), float(bounds.high)


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    """Any 1-D array-like as float64, finite or NaN for missing."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} must be numbers; got {type(values).__name__} that does not convert"
        ) from None
    if numbers.ndim != 1:
        raise InputError(f"{name} must be 1-D, got shape {numbers.shape}; choose an axis or flatten them")
    if np.isinf(numbers).any():
        raise InputError(f"{name} hold infinite values; they must be finite or NaN (missing)")
    return numbers


def _present(values: ArrayLike, name: str) -> tuple[np.ndarray, int]:
    """The values that are not NaN, and how many were."""
    numbers = _numbers(values, name)
    present = numbers[~np.isnan(numbers)]
    return present, len(numbers) - len(present)

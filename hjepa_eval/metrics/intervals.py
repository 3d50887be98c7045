"""Confidence intervals for accuracies, for means, and for several measurements of one number, one per seed or draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from hjepa_eval.errors import ProbeError


@dataclass(frozen=True)
class Interval:
    """A measured value with its confidence interval.

    Attributes:
        value: the point estimate; an accuracy is a fraction in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        num_samples: how many samples (test images, seeds) the value rests on.
        method: how the interval was made and its confidence, for example `wilson 95%`.
    """

    value: float
    low: float
    high: float
    num_samples: int
    method: str


def _quantile(confidence: float) -> float:
    """Return the two-sided standard normal quantile, 1.96 for 0.95."""
    if not 0.0 < confidence < 1.0:
        raise ProbeError(f"confidence {confidence} is not between 0 and 1; use 0.95 for a 95 % interval")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _named(method: str, confidence: float) -> str:
    return f"{method} {100 * confidence:g}%"


def _finite_values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ProbeError("the mean of 0 values has no interval; give at least one value")
    if not np.isfinite(array).all():
        raise ProbeError(f"{int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite")
    return array


def wilson(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Return the accuracy `correct / total` with its Wilson score interval.

    The interval stays inside [0, 1] and keeps a width when nothing or everything is right, where the normal
    approximation would claim certainty.

    Raises:
        ProbeError: `total` is below 1, or `correct` is outside [0, total].

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if total < 1:
        raise ProbeError("an accuracy of 0 samples has no interval; give at least one test sample")
    if not 0 <= correct <= total:
        raise ProbeError(f"{correct} correct of {total} samples is impossible")
    low, high = _wilson_ends(correct / total, total, confidence)
    return Interval(correct / total, low, high, total, _named("wilson", confidence))


def _wilson_ends(share: float, total: float, confidence: float) -> tuple[float, float]:
    z = _quantile(confidence)
    spread = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / spread
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / spread
    # At 0 and 1 the formula meets the ends exactly; rounding would put them at 1e-17 on the wrong side.
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def share_interval(
    share: float, variance: float, *, num_samples: int, method: str, confidence: float = 0.95
) -> Interval:
    """Return `share` with Wilson's interval for the number of samples that would have its variance.

    That number is share (1 - share) / variance; where nothing or everything was right, and so nothing varied, it is
    `num_samples`.

    Args:
        share: in [0, 1].
        variance: of the share, 0 or more.
        num_samples: how many samples it rests on.
        method: how the variance was found, for the interval's name.
        confidence: of the interval.

    Raises:
        ProbeError: a share outside [0, 1], a negative variance, or no samples.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", Survey Methodology 1998, for the effective number of samples.
    """
    if not 0 <= share <= 1 or not variance >= 0 or num_samples < 1:
        raise ProbeError(f"a share of {share} with variance {variance} of {num_samples} samples has no interval")
    spread = share * (1 - share)
    effective = spread / variance if variance > 0 and spread > 0 else num_samples
    low, high = _wilson_ends(share, effective, confidence)
    return Interval(share, low, high, num_samples, _named(method, confidence))


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean of `values` [N] with Student's interval, `mean +- t * std / sqrt(N)`; of one value just itself.

    Source: "Student", "The probable error of a mean", Biometrika 1908.

    Raises:
        ProbeError: `values` is empty or holds NaN or infinity, or a confidence outside (0, 1).
    """
    _quantile(confidence)  # refuses a confidence outside (0, 1)
    array = _finite_values(values)
    mean, count = float(array.mean()), array.size
    error = float(array.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    half = float(stdtrit(max(1, count - 1), 0.5 + confidence / 2)) * error
    return Interval(mean, mean - half, mean + half, count, _named("Student t", confidence))


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of `values` [N] with the percentile interval of `resamples` bootstrap means.

    Values that take few distinct levels (0 and 1 for a sample that is wrong or right) are drawn as multinomial counts,
    which gives the same distribution as drawing N indices and costs a thousandth.

    Raises:
        ProbeError: `values` is empty or holds NaN or infinity, or `resamples` is below 1.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    _quantile(confidence)  # refuses a confidence outside (0, 1)
    array = _finite_values(values)
    means = bootstrap_means(array, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(array.mean()), float(low), float(high), array.size, _named("bootstrap", confidence))


def bootstrap_means(values: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the means [resamples] of bootstrap samples of `values` [N].

    Raises:
        ProbeError: `resamples` is below 1.
    """
    if resamples < 1:
        raise ProbeError(f"{resamples} bootstrap resamples are too few; use 2000")
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(values.size, counts / values.size, size=resamples)
    return np.asarray(drawn @ distinct / values.size)


@dataclass(frozen=True)
class Spread:
    """What several seeds or draws say together.

    Attributes:
        mean: of the values.
        std: sample standard deviation (divisor n - 1); None for one value, which has none.
        values: all of them, in the order given.
        interval: Student's t interval of the mean; for one value the interval of that measurement itself.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    interval: Interval


def spread(scores: Sequence[Interval], *, confidence: float = 0.95) -> Spread:
    """Return mean, sample standard deviation and interval of `scores`, one per seed or draw.

    The interval is mean +- t * std / sqrt(n), t of n - 1 degrees of freedom: 12.7 for two values, 2.26 for ten. It says
    how far other seeds would move the mean, holds no uncertainty of the test images that all seeds share, and may
    leave [0, 1] when the values are few and far apart.

    Args:
        scores: the measurements; only their values count when there are several.
        confidence: of the interval.

    Raises:
        ProbeError: no scores, a value that is not finite, or a confidence outside (0, 1).

    Source: "Student", "The probable error of a mean", Biometrika 1908.
    """
    array = np.array([score.value for score in scores], dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ProbeError(f"a mean over seeds needs at least one value and finite ones, found {array.tolist()}")
    if not 0 < confidence < 1:
        raise ProbeError(f"confidence {confidence} is not between 0 and 1; use 0.95 for a 95 % interval")
    mean, each = float(array.mean()), tuple(array.tolist())
    if array.size == 1:
        return Spread(mean, None, each, scores[0])
    return Spread(mean, float(array.std(ddof=1)), each, t_interval(array, confidence=confidence))


def crossed_interval(outcomes: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean of `outcomes` [R, N] with an interval that covers other seeds and other samples.

    Its half is the root of the sum of two squares: t of R - 1 degrees of freedom times the error that seeds leave, and
    t of N - 1 times the error that samples leave. By simulation it covers 94 to 97 % for three seeds and more, and up
    to 99.7 % for two, which say little of how far seeds fall apart.

    Args:
        outcomes: of R seeds, two or more, on the same N samples, two or more, in the same order.
        confidence: of the interval.

    Raises:
        ProbeError: fewer seeds or samples, or a value that is not finite.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, for the variance of a crossed mean;
        Howe, "Approximate confidence limits on the mean of X + Y", JASA 1974, for the two t.
    """
    x = np.asarray(outcomes, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ProbeError(
            f"a crossed mean takes finite outcomes of two seeds and samples or more, found {list(x.shape)}"
        )
    runs, samples = x.shape
    mean = float(x.mean())
    by_run, by_sample = x.mean(axis=1), x.mean(axis=0)
    left = x - by_run[:, None] - by_sample + mean
    twice = float((left**2).sum()) / ((runs - 1) * (samples - 1)) / (runs * samples)
    of_runs, of_samples = float(by_run.var(ddof=1)) / runs, float(by_sample.var(ddof=1)) / samples
    t_runs, t_samples = (float(stdtrit(size - 1, 0.5 + confidence / 2)) for size in (runs, samples))
    # The difference of two variances, one of a single degree of freedom, is too often 0.
    of_runs -= twice if runs > 2 else 0.0
    half = math.sqrt(t_runs**2 * max(of_runs, 0.0) + t_samples**2 * of_samples)
    return Interval(mean, mean - half, mean + half, samples, f"crossed t {100 * confidence:g}%")

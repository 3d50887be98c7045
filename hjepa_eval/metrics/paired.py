"""Comparisons of two levels, models or probes on the same samples: far sharper than two separate intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtr

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, bootstrap_interval


@dataclass(frozen=True)
class Comparison:
    """How much better the first is than the second.

    Attributes:
        difference: first minus second, with a paired bootstrap interval.
        p_value: two-sided, of no difference (McNemar's exact test for right and wrong, paired t-test for other values).
        only_first: samples that the first alone gets right.
        only_second: samples that the second alone gets right.
    """

    difference: Interval
    p_value: float
    only_first: int
    only_second: int


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test from the two counts of discordant samples.

    If both were equally good, `only_first` would be a draw of Binomial(n, 1/2), n the number of discordant samples.

    Source: McNemar, Psychometrika 1947; Dietterich, "Approximate statistical tests", Neural Computation 1998.

    Raises:
        ProbeError: a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise ProbeError(f"counts of samples cannot be negative, found {only_first} and {only_second}")
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(only_first, only_second), discordant, 0.5)))


def compare_correct(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Compare two classifiers by whether each sample was classified right, bool [N] in the same order of samples.

    Raises:
        ProbeError: the lengths differ, or are 0.
    """
    _same_samples(first, second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    difference = first.astype(np.float64) - second.astype(np.float64)
    interval = bootstrap_interval(difference, resamples=resamples, seed=seed)
    return Comparison(interval, mcnemar(only_first, only_second), only_first, only_second)


def compare_values(first: ArrayLike, second: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare two lists of values [N] (accuracies of the same episodes, say) by a paired bootstrap and t-test.

    The p-value is 1 where the differences are all 0, and for a single pair, which tests nothing.

    Raises:
        ProbeError: the lengths differ, or are 0, or a value is NaN.

    Source: "Student", Biometrika 1908; `scipy.stats.ttest_rel`, whose answer this is.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _same_samples(one, two)
    interval = bootstrap_interval(one - two, resamples=resamples, seed=seed)
    return Comparison(interval, _paired_t(one - two), int((one > two).sum()), int((two > one).sum()))


def _paired_t(difference: NDArray[np.float64]) -> float:
    """Return the two-sided p-value that the mean of `difference` [N] is 0."""
    if difference.size == 1 or not difference.any():
        return 1.0
    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    t = abs(float(difference.mean())) / error if error > 0 else math.inf
    return float(2 * stdtr(difference.size - 1, -t))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for having looked at all of them, in the same order.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.

    Raises:
        ProbeError: a p-value lies outside [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ProbeError(f"p-values lie between 0 and 1, found {list(p_values)}")
    order = np.argsort(given, kind="stable")
    raised = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(p) for p in adjusted]


def _same_samples(first: NDArray, second: NDArray) -> None:
    if first.shape != second.shape or first.ndim != 1:
        raise ProbeError(
            f"a paired comparison needs the same samples in the same order, found {first.size} and {second.size}"
        )

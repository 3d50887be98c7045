"""Comparisons of two levels, models or probes on the same samples, and a choice of level without test.

Two levels' intervals overlap long after a paired test has told them apart, because both err on the same hard images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtr

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, bootstrap_interval, t_interval, wilson


@dataclass(frozen=True)
class Paired:
    """How much better the first of two is than the second, on the same samples.

    Attributes:
        difference: first minus second.
        low: lower end of the difference's interval.
        high: upper end.
        interval: how the interval was made: bootstrap for right and wrong, Student's t for other values.
        test: which test the p-values are of: `McNemar exact` for right and wrong, `paired t` for other values.
        p_value: two-sided, of no difference.
        p_holm: adjusted for all tests made together; of one test alone its p-value.
        only_first: samples that the first alone gets right.
        only_second: samples that the second alone gets right.
    """

    difference: float
    low: float
    high: float
    interval: str
    test: str
    p_value: float
    p_holm: float
    only_first: int = 0
    only_second: int = 0

    def turned(self) -> Paired:
        """Return the same comparison, the second minus the first."""
        return replace(
            self,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            only_first=self.only_second,
            only_second=self.only_first,
        )


def _paired(found: Interval, test: str, p: float, *, differences: NDArray[np.float64]) -> Paired:
    """Return a comparison from the interval of the samples' differences [N]."""
    first, second = int((differences > 0).sum()), int((differences < 0).sum())
    return Paired(found.value, found.low, found.high, found.method, test, p, p, first, second)


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
) -> Paired:
    """Compare two classifiers by whether each sample was classified right, bool [N] in the same order of samples.

    Raises:
        ProbeError: the lengths differ, or are 0.
    """
    _same_samples(first, second)
    p = mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))
    differences = first.astype(np.float64) - second.astype(np.float64)
    interval = bootstrap_interval(differences, resamples=resamples, seed=seed)
    return _paired(interval, "McNemar exact", p, differences=differences)


def compare_values(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare two lists of values [N] (what each image adds to few-shot episodes, say) by a paired t-test and interval.

    Both rest on the same standard error, so the interval holds 0 just where p is above 0.05. The p-value is 1 where the
    differences are all 0, and for a single pair, which tests nothing.

    Raises:
        ProbeError: the lengths differ, or are 0, or a value is NaN.

    Source: "Student", Biometrika 1908; `scipy.stats.ttest_rel`, whose answer this is.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _same_samples(one, two)
    return _paired(t_interval(one - two), "paired t", _paired_t(one - two), differences=one - two)


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


Outcomes = NDArray[np.bool_] | NDArray[np.floating]


def compare(first: Outcomes, second: Outcomes) -> Paired:
    """Return the paired comparison of two outcomes [N] of the same samples.

    Args:
        first: bool [N] (right or wrong), or float [N] (what each image adds to few-shot episodes, or
            the share of seeds that were right).
        second: the same for the other.

    Raises:
        ProbeError: the lengths differ, or a value is NaN.
    """
    if first.dtype == np.bool_ and second.dtype == np.bool_:
        return compare_correct(np.asarray(first, np.bool_), np.asarray(second, np.bool_))
    return compare_values(first, second)


def adjusted(tests: Sequence[Paired]) -> list[Paired]:
    """Return the comparisons, in the same order, with p-values adjusted by Holm's method over all of them."""
    return [replace(test, p_holm=p) for test, p in zip(tests, holm([test.p_value for test in tests]), strict=True)]


def compare_levels(outcomes: Mapping[int, Outcomes]) -> dict[tuple[int, int], Paired]:
    """Return (first, second) -> all pairs of levels, the coarser minus the finer, adjusted over all pairs.

    Args:
        outcomes: level -> [N], of the same samples in the same order.

    Raises:
        ProbeError: the lengths differ.
    """
    pairs = [(coarser, finer) for finer, coarser in combinations(sorted(outcomes), 2)]
    tests = adjusted([compare(outcomes[coarser], outcomes[finer]) for coarser, finer in pairs])
    return dict(zip(pairs, tests, strict=True))


def choose_level(held_out: Mapping[int, float]) -> int:
    """Return the level with the highest score on samples that are not test; of equal ones the finest.

    Raises:
        ProbeError: there is no level to choose from.
    """
    if not held_out:
        raise ProbeError("no level to choose from; give the held-out score of at least one")
    return max(sorted(held_out), key=lambda level: held_out[level])


def tied_levels(outcomes: Mapping[int, Outcomes], best: int, *, threshold: float = 0.05) -> tuple[int, ...]:
    """Return the levels that paired tests do not tell from `best`: Holm's p over them is at `threshold` or above.

    Args:
        outcomes: level -> [N], of the same samples in the same order.
        best: the level that the others are compared with.
        threshold: of p.
    """
    others = [level for level in outcomes if level != best]
    p_values = [compare(outcomes[best], outcomes[level]).p_value for level in others]
    return tuple(level for level, p in zip(others, holm(p_values), strict=True) if p >= threshold)


def outcome_ends(outcomes: Outcomes) -> tuple[float, float]:
    """Return the ends in [0, 1] of the 95 % interval of the mean of `outcomes` [N]: Wilson's for right and wrong."""
    counted = outcomes.dtype == np.bool_
    interval = wilson(int(outcomes.sum()), outcomes.size) if counted else t_interval(outcomes)
    return max(0.0, interval.low), min(1.0, interval.high)

"""Intervals against hand-computed values, scipy, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import bootstrap_interval, share_interval, t_interval, wilson


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (7, 10), (1, 1), (8123, 10000)])
def test_wilson__equals_scipy(correct: int, total: int) -> None:
    ours = wilson(correct, total)
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (ours.value, ours.num_samples, ours.method) == (correct / total, total, "wilson 95%")


def test_wilson__keeps_a_width_when_all_is_right() -> None:
    perfect = wilson(50, 50)
    assert perfect.high == 1.0
    assert 0.92 < perfect.low < 0.94


def test_wilson__a_higher_confidence_is_wider() -> None:
    assert wilson(30, 50, confidence=0.99).low < wilson(30, 50).low


def test_t_interval__is_students() -> None:
    interval = t_interval([0.2, 0.4, 0.6, 0.8])
    assert interval.value == pytest.approx(0.5)
    assert interval.high - interval.value == pytest.approx(3.182446 * np.sqrt(0.2 / 3) / 2, rel=1e-6)
    assert (interval.num_samples, interval.method) == (4, "Student t 95%")
    assert t_interval([0.3]).low == t_interval([0.3]).high == 0.3


def test_share_interval__of_independent_samples_is_wilsons() -> None:
    ours, reference = share_interval(0.3, 0.3 * 0.7 / 50, num_samples=50, method="wilson"), wilson(15, 50)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high))
    assert share_interval(1.0, 0.0, num_samples=50, method="wilson") == wilson(50, 50)


def test_bootstrap_interval__agrees_with_wilson_on_many_samples() -> None:
    values = np.repeat([0.0, 1.0], [3000, 7000])
    ours, reference = bootstrap_interval(values), wilson(7000, 10000)
    assert ours.low == pytest.approx(reference.low, abs=1e-3)
    assert ours.high == pytest.approx(reference.high, abs=1e-3)


def test_bootstrap_interval__the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(100)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_interval__order_of_values_does_not_matter() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wilson(0, 0), "0 samples"),
        (lambda: wilson(5, 4), "impossible"),
        (lambda: wilson(1, 4, confidence=95), "use 0.95"),
        (lambda: t_interval([]), "at least one value"),
        (lambda: t_interval([1.0, float("nan")]), "1 of 2 values are NaN"),
        (lambda: bootstrap_interval([1.0], resamples=0), "too few"),
        (lambda: share_interval(1.5, 0.1, num_samples=3, method="x"), "share of 1.5"),
    ],
)
def test_intervals__refuse_what_has_no_interval(call, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        call()

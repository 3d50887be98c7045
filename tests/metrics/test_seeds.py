"""Means over seeds against hand-computed values and scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, spread, wilson


def scores(*values: float) -> list[Interval]:
    return [Interval(value, value - 0.1, value + 0.1, 50, "wilson 95%") for value in values]


def test_spread__equals_the_hand_computed_interval() -> None:
    """Mean 0.6, std sqrt((0.01 + 0 + 0.01) / 2) = 0.1, t(2) = 4.302653: half a width of 0.4303 / sqrt(3)."""
    found = spread(scores(0.5, 0.6, 0.7))
    assert found.mean == pytest.approx(0.6)
    assert found.std == pytest.approx(0.1)
    assert found.values == (0.5, 0.6, 0.7)
    half = 4.302652730 * 0.1 / math.sqrt(3)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.6 - half, 0.6 + half))
    assert (found.interval.num_samples, found.interval.method) == (3, "Student t 95%")


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_spread__equals_scipys_t_interval(confidence: float) -> None:
    values = [0.71, 0.74, 0.70, 0.78, 0.73]
    found = spread(scores(*values), confidence=confidence)
    expected = stats.t.interval(confidence, 4, loc=stats.tmean(values), scale=stats.sem(values))
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)


def test_spread__equal_values_have_no_width() -> None:
    found = spread(scores(0.5, 0.5))
    assert (found.std, found.interval.low, found.interval.high) == (0.0, 0.5, 0.5)


def test_spread__one_value_keeps_the_interval_of_its_measurement() -> None:
    single = wilson(8, 10)
    found = spread([single])
    assert (found.mean, found.std, found.values, found.interval) == (0.8, None, (0.8,), single)


def test_spread__refuses_what_has_no_mean_or_interval() -> None:
    with pytest.raises(ProbeError, match="at least one value"):
        spread([])
    with pytest.raises(ProbeError, match=r"finite ones, found \[0.5, nan\]"):
        spread(scores(0.5, float("nan")))
    with pytest.raises(ProbeError, match="not between 0 and 1"):
        spread(scores(0.5, 0.6), confidence=95)

"""Paired comparisons against hand-computed values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.paired import compare_correct, compare_values, holm, mcnemar


@pytest.mark.parametrize(("b", "c"), [(10, 2), (2, 10), (5, 5), (0, 6), (300, 250)])
def test_mcnemar__equals_the_binomial_test(b: int, c: int) -> None:
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_mcnemar__no_discordant_sample_is_no_evidence() -> None:
    assert mcnemar(0, 0) == 1.0


def test_mcnemar__six_to_nothing_is_one_in_thirty_two() -> None:
    assert mcnemar(6, 0) == pytest.approx(2 / 64)


def test_compare_correct__counts_and_difference() -> None:
    first = np.array([1, 1, 1, 1, 0, 0, 1, 1], bool)
    second = np.array([1, 1, 0, 0, 1, 0, 1, 0], bool)
    found = compare_correct(first, second)
    assert (found.only_first, found.only_second) == (3, 1)
    assert found.difference == pytest.approx(0.25)
    assert found.p_value == pytest.approx(2 * 5 / 16)
    assert found.low < 0.25 < found.high


def test_compare_correct__is_sharper_than_separate_intervals() -> None:
    """Two classifiers that err on the same hard samples, but for a few: the pairing shows the difference."""
    first = np.arange(2000) >= 600
    second = first & (np.arange(2000) % 100 != 0)
    found = compare_correct(first, second)
    assert found.low > 0
    assert found.p_value < 1e-3


def test_compare_values__the_sign_follows_the_order() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(500)
    better = base + 0.01 + 0.001 * generator.random(500)
    one, other = compare_values(better, base), compare_values(base, better)
    assert one.low > 0 > other.high
    assert (one.only_first, one.only_second) == (500, 0)


def test_compare_values__the_p_value_is_the_paired_t_tests() -> None:
    """Differences 1, 2, 3 and 6: mean 3, std sqrt(14 / 3), t = 3 / (std / 2) = 2.7775 with 3 degrees of freedom."""
    base = np.array([0.0, 5.0, 1.0, 2.0])
    found = compare_values(base + np.array([1, 2, 3, 6]), base)
    assert found.p_value == pytest.approx(0.0691, abs=5e-5)
    generator = np.random.default_rng(1)
    for shift in (0.0, 0.02, 0.5):
        one, two = generator.random(300) + shift, generator.random(300)
        assert compare_values(one, two).p_value == pytest.approx(ttest_rel(one, two).pvalue, rel=1e-9)


def test_compare_values__no_difference_and_a_single_pair_are_no_evidence() -> None:
    assert compare_values([0.5, 0.7], [0.5, 0.7]).p_value == 1.0
    assert compare_values([0.9], [0.1]).p_value == 1.0


def test_compare_values__a_constant_difference_is_certain() -> None:
    assert compare_values([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).p_value == 0.0


def test_holm__equals_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_paired__refuses_other_samples() -> None:
    with pytest.raises(ProbeError, match="found 3 and 4"):
        compare_correct(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(ProbeError, match="between 0 and 1"):
        holm([1.5])
    with pytest.raises(ProbeError, match="negative"):
        mcnemar(-1, 2)


def test_turned__is_the_comparison_the_other_way_round() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.random(100) < 0.7, generator.random(100) < 0.5
    one, other = compare_correct(first, second), compare_correct(second, first)
    assert one.turned().turned() == one
    assert (one.turned().difference, one.turned().p_value) == (other.difference, other.p_value)
    assert (one.turned().only_first, one.turned().only_second) == (other.only_first, other.only_second)
    assert (one.turned().low, one.turned().high) == (-one.high, -one.low)

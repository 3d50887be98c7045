"""Paired tests of levels, and the choice of one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.paired import choose_level, compare_levels


def test_compare_levels__all_pairs_the_coarser_minus_the_finer() -> None:
    right = {
        0: np.array([1, 1, 0, 0, 0, 0, 0, 0], dtype=bool),
        1: np.array([1, 0, 1, 1, 1, 1, 0, 0], dtype=bool),
        3: np.array([1, 1, 1, 1, 1, 1, 1, 0], dtype=bool),
    }
    by_levels = compare_levels(right)
    assert list(by_levels) == [(1, 0), (3, 0), (3, 1)]
    tests = list(by_levels.values())
    assert [test.difference for test in tests] == [3 / 8, 5 / 8, 2 / 8]
    expected = [binomtest(1, 5).pvalue, binomtest(0, 5).pvalue, binomtest(0, 2).pvalue]
    assert [test.p_value for test in tests] == pytest.approx(expected)
    # Holm: the smallest (1/16) times 3, then 3/8 times 2 against 1/2 times 1, each at least the one before.
    assert [test.p_holm for test in tests] == pytest.approx([0.75, 3 / 16, 0.75])
    assert {test.test for test in tests} == {"McNemar exact"}


def test_compare_levels__accuracies_of_episodes_use_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(size=200)
    second = first + generator.normal(0.01, 0.05, size=200)
    test = compare_levels({0: first, 1: second})[1, 0]
    assert test.test == "paired t"
    assert test.p_value == pytest.approx(ttest_rel(second, first).pvalue)
    assert test.difference == pytest.approx((second - first).mean())


def test_compare_levels__samples_must_be_the_same() -> None:
    with pytest.raises(ProbeError, match="same samples"):
        compare_levels({0: np.ones(3, dtype=bool), 1: np.ones(4, dtype=bool)})


def test_choose_level__takes_the_highest_of_equal_ones_the_finest() -> None:
    assert choose_level({2: 0.5, 1: 0.5, 0: 0.4}) == 1
    with pytest.raises(ProbeError, match="no level"):
        choose_level({})

"""Kendall's tau within groups against scipy, its interval, and what choosing by a number loses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from hjepa_eval.metrics.kendall import rank_agreement


def test_tau__of_one_group_is_scipys_with_ties() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(5, size=12).astype(float), generator.integers(6, size=12).astype(float)
    ranked = rank_agreement([(x, y)])
    assert ranked is not None
    assert ranked.tau.value == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
    assert ranked.tau.low <= ranked.tau.value <= ranked.tau.high


def test_tau__of_groups_counts_pairs_within_them_alone() -> None:
    rising = np.array([1.0, 2.0, 3.0])
    # Between the groups the order is the other way round.
    ranked = rank_agreement([(rising, rising + 10), (rising + 10, rising)])
    assert ranked is not None
    assert (ranked.tau.value, ranked.tau.num_samples, ranked.groups) == (1.0, 6, 2)
    one, other = rank_agreement([(rising, rising), (rising, -rising)]), rank_agreement([(rising, -rising)])
    assert one is not None
    assert other is not None
    assert (one.tau.value, other.tau.value) == (0.0, -1.0)


def test_lost__is_what_the_chosen_item_lacks_of_the_best() -> None:
    x, y = np.array([1.0, 3.0, 2.0]), np.array([0.5, 0.6, 0.9])
    ranked = rank_agreement([(x, y)])
    assert ranked is not None
    assert ranked.lost == pytest.approx(0.3)
    assert ranked.by_chance == pytest.approx(0.9 - 2 / 3)
    tied = rank_agreement([(np.array([1.0, 1.0, 0.0]), np.array([0.4, 0.8, 0.9]))])
    assert tied is not None
    assert tied.lost == pytest.approx(0.3)


def test_tau__needs_three_items_that_differ() -> None:
    two = np.array([0.0, 1.0])
    assert rank_agreement([(two, two)]) is None
    assert rank_agreement([(np.ones(4), np.arange(4.0))]) is None
    assert rank_agreement([]) is None


def test_tau__of_many_items_has_an_interval_that_holds_the_truth() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=200)
    ranked = rank_agreement([(x, generator.normal(size=200))])
    assert ranked is not None
    assert ranked.tau.low < 0 < ranked.tau.high
    assert ranked.tau.high - ranked.tau.low < 0.3

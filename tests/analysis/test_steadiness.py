from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.analysis.steadiness import equivariance, invariance, mean_corruption_error
from hjepa_eval.errors import ProbeError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_invariance__is_that_of_all_pairs() -> None:
    before, after = normal(30, 4) + 1, normal(30, 4, seed=1) + 1
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (before, after)]
    cosines = unit[0] @ unit[1].T
    between = cosines[~np.eye(30, dtype=bool)].mean()
    result = invariance(before, after)
    assert result.between == pytest.approx(between)
    assert result.value.value == pytest.approx(np.diag(cosines).mean() - between)
    assert result.share == pytest.approx((np.diag(cosines).mean() - between) / (1 - between))


def test_invariance__of_a_collapsed_level_is_nothing() -> None:
    rows = np.ones((50, 8)) + 1e-9 * normal(50, 8)
    assert invariance(rows, rows).value.value == pytest.approx(0, abs=1e-9)
    apart = normal(50, 8)
    assert invariance(apart, apart).share == pytest.approx(1)
    assert abs(invariance(normal(500, 64), normal(500, 64, seed=1)).share) < 0.02
    with pytest.raises(ProbeError, match="same images"):
        invariance(apart, apart[:3])


def test_equivariance__finds_a_parameter_that_features_carry_and_none_that_they_lack() -> None:
    clean, moved = normal(600, 10), np.random.default_rng(2).uniform(-1, 1, size=(600, 2))
    carried = clean + moved @ normal(2, 10, seed=3)
    assert equivariance(clean, carried, moved).value > 0.95
    assert equivariance(clean, clean + normal(600, 10, seed=4), moved).value < 0.05
    with pytest.raises(ProbeError, match="rows differ"):
        equivariance(clean, carried, moved[:9])


def test_mean_corruption_error__by_hand() -> None:
    assert mean_corruption_error(
        {"fog": [0.2, 0.4], "snow": [0.5]}, {"fog": [0.4, 0.4], "snow": [0.5]}
    ) == pytest.approx(0.875)
    with pytest.raises(ProbeError, match="same corruptions"):
        mean_corruption_error({"fog": [0.2]}, {"snow": [0.2]})
    with pytest.raises(ProbeError, match="no error"):
        mean_corruption_error({"fog": [0.2]}, {"fog": [0.0]})

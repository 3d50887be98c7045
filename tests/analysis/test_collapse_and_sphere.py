from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import skew

from hjepa_eval.analysis.collapse import neural_collapse
from hjepa_eval.analysis.sphere import alignment, hubness, uniformity
from hjepa_eval.errors import ProbeError


def test_neural_collapse__is_zero_for_a_simplex_and_grows_with_noise() -> None:
    labels = np.repeat(np.arange(5), 20)
    corners = np.eye(5)[labels]
    generator = np.random.default_rng(0)
    exact = neural_collapse(corners + 1e-9 * generator.normal(size=corners.shape), labels)
    assert exact.nc1 < 1e-12
    for value in (exact.nc2_norms, exact.nc2_angles, exact.nc3, exact.nc4):
        assert value == pytest.approx(0, abs=1e-3)
    noisy = neural_collapse(corners + generator.normal(size=corners.shape), labels)
    assert noisy.nc1 > 1
    assert noisy.nc4 > 0


def test_neural_collapse__nc1_is_that_of_the_scatter_matrices() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    rows = generator.normal(size=(120, 6)) + 2 * generator.normal(size=(4, 6))[labels]
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(4)])
    within = sum(np.cov(rows[labels == label].T, bias=True) for label in range(4)) / 4
    between = np.cov(means.T, bias=True)
    assert neural_collapse(rows, labels).nc1 == pytest.approx(np.trace(within @ np.linalg.pinv(between)) / 4, rel=1e-8)
    assert neural_collapse(1e-8 * rows + 1e3, labels).nc1 == pytest.approx(neural_collapse(rows, labels).nc1, rel=1e-2)


def test_neural_collapse__takes_as_many_of_each_class() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    assert neural_collapse(rows, np.array([0] * 30 + [1] * 20)).per_class == 20
    with pytest.raises(ProbeError, match="2 classes"):
        neural_collapse(rows, np.zeros(50, np.int64))


def test_uniformity__is_that_of_all_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5)) + 1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(40) for j in range(40) if i != j]
    assert uniformity(rows) == pytest.approx(np.log(np.mean(pairs)))
    assert uniformity(np.ones((10, 3))) == pytest.approx(0)
    assert uniformity(np.random.default_rng(1).normal(size=(2000, 500))) == pytest.approx(-4, abs=0.05)


def test_alignment__of_the_same_direction_is_zero() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4))
    assert alignment(rows, 3 * rows) == pytest.approx(0)
    assert alignment(rows, -rows) == pytest.approx(4)
    with pytest.raises(ProbeError, match="one shape"):
        alignment(rows, rows[:5])


def test_hubness__is_the_skewness_of_in_degrees() -> None:
    neighbours = np.random.default_rng(0).integers(50, size=(200, 7))
    assert hubness(neighbours, images=50) == pytest.approx(skew(np.bincount(neighbours.ravel(), minlength=50)))
    assert hubness(np.array([[1], [0]])) == 0

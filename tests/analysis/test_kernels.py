"""Likeness by kernels against brute force and scipy, and CKA's calibration against permuted images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from hjepa_eval.analysis.agreement import cka_null, debiased_cka
from hjepa_eval.analysis.calibration import calibrate, permutations
from hjepa_eval.analysis.kernels import MEASURES, cknna, rbf_cka, rsa, unbiased_hsic


def related(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return two views `[count, 6]` and `[count, 5]` that share two directions."""
    generator = np.random.default_rng(0)
    both = generator.normal(size=(count, 2))
    first = np.concatenate([both, 0.5 * generator.normal(size=(count, 4))], axis=1)
    return first, np.concatenate([both[:, ::-1], 0.5 * generator.normal(size=(count, 3))], axis=1)


def brute_hsic(one: np.ndarray, other: np.ndarray) -> float:
    count = len(one)
    one, other = (kernel * (1 - np.eye(count)) for kernel in (one, other))
    ones = np.ones(count)
    middle = (ones @ one @ ones) * (ones @ other @ ones) / ((count - 1) * (count - 2))
    return float(np.trace(one @ other) + middle - 2 / (count - 2) * (ones @ one @ other @ ones))


def test_hsic__of_linear_kernels_gives_the_cka_of_features() -> None:
    first, second = related()
    one, other = ((rows - rows.mean(0)) @ (rows - rows.mean(0)).T for rows in (first, second))
    assert unbiased_hsic(one, other) == pytest.approx(brute_hsic(one, other), rel=1e-12)
    ratio = unbiased_hsic(one, other) / np.sqrt(unbiased_hsic(one, one) * unbiased_hsic(other, other))
    assert debiased_cka(first, second) == pytest.approx(ratio, abs=1e-10)


def test_rbf_cka__has_the_median_distance_for_its_sigma() -> None:
    first, second = related()
    kernels = []
    for rows in (first, second):
        apart = squareform(pdist(rows))
        kernels.append(np.exp(-(apart**2) / (2 * np.median(pdist(rows)) ** 2)))
    expected = brute_hsic(*kernels) / np.sqrt(brute_hsic(kernels[0], kernels[0]) * brute_hsic(kernels[1], kernels[1]))
    assert rbf_cka(first, second) == pytest.approx(expected, abs=1e-9)
    assert rbf_cka(first, 7 * first + 3) == pytest.approx(1, abs=1e-9)


def test_cknna__of_all_neighbours_is_cka_of_unit_rows() -> None:
    first, second = related()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    kernels = [rows @ rows.T for rows in unit]
    expected = brute_hsic(*kernels) / np.sqrt(brute_hsic(kernels[0], kernels[0]) * brute_hsic(kernels[1], kernels[1]))
    assert cknna(first, second, count=39) == pytest.approx(expected, abs=1e-10)


def test_rsa__is_spearmans_correlation_of_cosine_distances() -> None:
    first, second = related()
    expected = spearmanr(pdist(first, "cosine"), pdist(second, "cosine")).statistic
    assert rsa(first, second) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_measures__are_one_for_equal_views_and_zero_for_a_constant(name: str) -> None:
    first, _ = related()
    assert MEASURES[name](first, first) == pytest.approx(1, abs=1e-9)
    assert MEASURES[name](first, np.ones((40, 3))) == pytest.approx(0, abs=1e-9)


def test_cka__of_noise_is_zero_once_calibrated() -> None:
    generator = np.random.default_rng(3)
    first, second = (generator.normal(size=(1000, 768)) for _ in range(2))
    value = debiased_cka(first, second)
    assert abs(value) < 0.01
    told = calibrate(value, cka_null(first, second, permutations(1000, times=40)()))
    assert told.calibrated == 0
    assert told.p_value > 0.05


def test_cka_null__is_the_cka_of_permuted_images() -> None:
    first, second = related()
    draws = permutations(40, times=5)()
    expected = [debiased_cka(first, second[order]) for order in draws]
    assert cka_null(first, second, draws) == pytest.approx(expected, abs=1e-5)
    told = calibrate(debiased_cka(first, second), cka_null(first, second, permutations(40)()))
    assert told.p_value < 0.01
    assert told.calibrated > 0.2

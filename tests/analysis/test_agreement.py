from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.analysis.agreement import (
    biased_cka,
    chance_cka,
    cosine_neighbours,
    debiased_cka,
    procrustes,
    shared_neighbours,
)
from hjepa_eval.analysis.calibration import calibrate, neighbour_null, permutations
from hjepa_eval.errors import ProbeError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def hsic_of_kernels(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al., equation 5, from kernels as it is printed."""
    n = len(one)
    k, m = one @ one.T, other @ other.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    return (
        np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * ones @ k @ m @ ones
    ) / (n * (n - 3))


def test_debiased_cka__is_that_of_the_kernels() -> None:
    one = normal(60, 7) + 3
    other = one[:, :4] ** 2 + normal(60, 4, seed=1)
    wanted = hsic_of_kernels(one, other) / np.sqrt(hsic_of_kernels(one, one) * hsic_of_kernels(other, other))
    assert debiased_cka(one, other) == pytest.approx(wanted, rel=1e-9)


def test_cka__of_noise_is_large_when_biased_and_nothing_when_not() -> None:
    one, other = normal(1000, 768), normal(1000, 768, seed=1)
    assert biased_cka(one, other) == pytest.approx(0.435, abs=0.003)
    assert chance_cka(one, other) == pytest.approx(0.434, abs=0.003)
    assert abs(debiased_cka(one, other)) < 0.01


def test_chance_cka__is_the_mean_over_permutations() -> None:
    one = normal(80, 6)
    other = one @ normal(6, 5, seed=1) + normal(80, 5, seed=2)
    null = [biased_cka(one, other[order]) for order in permutations(80, times=2000)()]
    assert np.mean(null) == pytest.approx(chance_cka(one, other), rel=0.01)


def test_cka_and_procrustes__do_not_feel_rotation_scale_and_shift() -> None:
    rows = normal(200, 5)
    turned = 1e-5 * rows @ np.linalg.qr(normal(5, 5, seed=1))[0] + 1e3
    assert debiased_cka(rows, turned) == pytest.approx(1, abs=1e-6)
    assert procrustes(rows, turned) == pytest.approx(1, abs=1e-6)
    assert procrustes(rows, normal(200, 5, seed=3)) < 0.3
    assert debiased_cka(rows, np.ones((200, 3))) == 0


def test_shared_neighbours__by_hand_and_of_noise() -> None:
    first, second = np.array([[1, 2], [0, 2], [0, 1]]), np.array([[2, 1], [2, 3], [4, 5]])
    assert shared_neighbours(first, second).tolist() == [1.0, 0.5, 0.0]
    lists = [cosine_neighbours(normal(1500, 40, seed=seed)) for seed in (0, 1)]
    assert shared_neighbours(lists[0], lists[1]).mean() == pytest.approx(10 / 1499, rel=0.25)
    assert shared_neighbours(lists[0], lists[0]).tolist() == [1.0] * 1500


def test_cosine_neighbours__are_those_of_brute_force_whatever_the_length() -> None:
    rows = normal(300, 8)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    wanted = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    assert np.array_equal(cosine_neighbours(rows * np.geomspace(1e-150, 1e150, 300)[:, None]), wanted)


@pytest.mark.parametrize("within", [False, True])
def test_neighbour_null__is_what_a_new_search_would_give(within: bool) -> None:
    one = normal(120, 6)
    other = one + normal(120, 6, seed=1)
    labels = np.arange(120) % 4 if within else None
    first, second = cosine_neighbours(one), cosine_neighbours(other)
    draws = permutations(120, times=20, labels=labels)()
    if labels is not None:
        assert all(np.array_equal(labels[order], labels) for order in draws)
        assert len({order.tobytes() for order in draws}) == 20
    searched = [shared_neighbours(first, cosine_neighbours(other[order])).mean() for order in draws]
    np.testing.assert_allclose(neighbour_null(first, second, draws), searched, atol=1e-12)


def test_calibrate__puts_noise_at_zero_and_identity_at_one() -> None:
    rows = normal(600, 20)
    mine, other = cosine_neighbours(rows), cosine_neighbours(normal(600, 20, seed=1))
    draws = permutations(600)()
    same = calibrate(float(shared_neighbours(mine, mine).mean()), neighbour_null(mine, mine, draws))
    assert (same.calibrated, same.p_value) == (1.0, pytest.approx(1 / 201))
    noise = calibrate(float(shared_neighbours(mine, other).mean()), neighbour_null(mine, other, draws))
    assert noise.calibrated < 0.01
    assert noise.null_mean == pytest.approx(10 / 599, rel=0.05)


def test_calibrate__p_values_of_noise_are_uniform() -> None:
    values = []
    for seed in range(60):
        first, second = (cosine_neighbours(normal(60, 5, seed=2 * seed + side)) for side in (0, 1))
        null = neighbour_null(first, second, permutations(60, times=99, seed=seed)())
        values.append(calibrate(float(shared_neighbours(first, second).mean()), null).p_value)
    assert 0.3 < np.mean(values) < 0.75
    assert np.mean(np.array(values) <= 0.1) < 0.25


def test_agreement__of_other_images_is_refused() -> None:
    with pytest.raises(ProbeError, match="same images"):
        debiased_cka(normal(10, 2), normal(9, 2))
    with pytest.raises(ProbeError, match="labels"):
        permutations(10, labels=np.zeros(9, np.int64))

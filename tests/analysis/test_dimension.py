from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hjepa_eval.analysis.dimension import correlation_dimension, maximum_likelihood, two_nn
from hjepa_eval.analysis.distances import nearest_rows, pair_distances
from hjepa_eval.errors import ProbeError

Array = NDArray[np.float64]
ALL = [two_nn, maximum_likelihood, correlation_dimension]


def on_sphere(generator: np.random.Generator, count: int, dimensions: int) -> Array:
    rows = generator.normal(size=(count, dimensions))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def manifolds(count: int = 2000) -> dict[str, tuple[Array, int]]:
    generator = np.random.default_rng(0)
    turn = 1.5 * np.pi * (1 + 2 * generator.uniform(size=count))
    roll = np.column_stack([turn * np.cos(turn), 21 * generator.uniform(size=count), turn * np.sin(turn)])
    ball = on_sphere(generator, count, 3) * generator.uniform(size=(count, 1)) ** (1 / 3)
    return {
        "plane": (generator.uniform(size=(count, 2)), 2),
        "ball": (ball, 3),
        "sphere": (on_sphere(generator, count, 3), 2),
        "swiss roll": (roll, 2),
        "five": (generator.normal(size=(count, 5)), 5),
    }


def embedded(rows: Array, width: int = 50) -> Array:
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) @ turned


@pytest.mark.rows("E6")
@pytest.mark.parametrize("estimate", ALL)
@pytest.mark.parametrize("name", ["plane", "ball", "sphere", "swiss roll", "five"])
def test_dimension__of_known_manifolds_in_50_dimensions_is_right_to_a_tenth(name: str, estimate: object) -> None:
    rows, truth = manifolds()[name]
    assert estimate(embedded(rows)).value == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("estimate", ALL)
def test_dimension__of_ten_is_biased_low_as_its_docstring_says(estimate: object) -> None:
    rows = np.random.default_rng(0).uniform(size=(2000, 10))
    assert 7.5 < estimate(embedded(rows)).value < 9.5


@pytest.mark.parametrize("estimate", ALL)
def test_dimension__is_the_same_of_shifted_scaled_and_repeated_rows(estimate: object) -> None:
    rows = embedded(manifolds(500)["ball"][0])
    value = estimate(rows).value
    assert estimate(1e-6 * rows).value == pytest.approx(value, rel=1e-6)
    assert estimate(rows + 1e4).value == pytest.approx(value, rel=1e-3)
    repeated = estimate(np.vstack([rows, rows[:100]]))
    assert (repeated.value, repeated.num_samples, repeated.duplicates) == (pytest.approx(value), 500, 100)


@pytest.mark.parametrize("estimate", ALL)
def test_dimension__of_one_point_cannot_be_told(estimate: object) -> None:
    assert np.isnan(estimate(np.ones((50, 4))).value)
    with pytest.raises(ProbeError, match="finite"):
        estimate(np.full((5, 2), np.nan))


def test_nearest_rows__are_those_of_brute_force_far_from_the_origin() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 16)) + 1e7
    differences = rows[:, None] - rows[None, :]
    distances = np.sqrt((differences**2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :10]
    indices, near = nearest_rows(rows, 10)
    assert np.array_equal(indices, order)
    np.testing.assert_allclose(near, np.take_along_axis(distances, order, axis=1), rtol=1e-9)


def test_nearest_rows__take_the_lower_index_of_a_tie() -> None:
    indices, distances = nearest_rows(np.array([[0.0], [1.0], [-1.0], [1.0]]), 2)
    assert indices[0].tolist() == [1, 2]
    assert distances[1].tolist() == [0.0, 1.0]


def test_pair_distances__are_exact_where_squares_would_cancel() -> None:
    rows = np.array([[1e8, 0.0], [1e8 + 1, 0.0]])
    assert pair_distances(rows, np.array([[0, 1]])) == [1.0]

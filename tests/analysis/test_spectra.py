from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.analysis.spectrum import (
    alpha_req,
    covariance_eigenvalues,
    effective_rank,
    nesum,
    participation_ratio,
    rankme,
)
from hjepa_eval.errors import ProbeError


def test_eigenvalues__are_those_of_the_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 12)) @ np.diag(np.arange(1.0, 13))
    wanted = np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1]
    np.testing.assert_allclose(covariance_eigenvalues(rows), wanted, rtol=1e-10)
    np.testing.assert_allclose(covariance_eigenvalues(rows[:8])[:7], np.linalg.eigvalsh(np.cov(rows[:8].T))[::-1][:7])


def test_eigenvalues__do_not_feel_a_common_part_or_scale() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6))
    values = covariance_eigenvalues(rows)
    np.testing.assert_allclose(covariance_eigenvalues(rows + 1e6), values, rtol=1e-6)
    np.testing.assert_allclose(covariance_eigenvalues(1e-100 * rows) * 1e200, values, rtol=1e-9)
    assert not covariance_eigenvalues(np.full((50, 4), 0.1)).any()


def test_measures__of_equal_variances_count_the_directions() -> None:
    values = np.array([2.0, 2.0, 2.0, 2.0, 0.0])
    for measure in (rankme, effective_rank, participation_ratio, nesum):
        assert measure(values) == pytest.approx(4)
        assert measure(np.zeros(5)) == 0
        assert measure(np.array([3.0, 0.0])) == pytest.approx(1)


def test_measures__by_hand() -> None:
    values = np.array([9.0, 1.0])
    # Shares of singular values 3/4 and 1/4; of variances .9 and .1.
    assert rankme(values) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert effective_rank(values) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))
    assert participation_ratio(values) == pytest.approx(100 / 82)
    assert nesum(values) == pytest.approx(10 / 9)


def test_alpha_req__finds_the_power_of_a_power_law() -> None:
    slope = alpha_req(np.arange(1.0, 193) ** -1.3)
    assert slope is not None
    assert (slope.value, slope.r2) == (pytest.approx(1.3), pytest.approx(1.0))
    assert (slope.first, slope.last) == (5, 96)
    assert alpha_req(np.ones(10)) is None
    flat = alpha_req(np.ones(200))
    assert flat is not None
    assert flat.value == pytest.approx(0)


@pytest.mark.parametrize("wrong", [np.ones((1, 3)), np.ones(4), np.array([[1.0, np.nan], [0.0, 1.0]])])
def test_eigenvalues__refuse_what_has_none(wrong: np.ndarray) -> None:
    with pytest.raises(ProbeError):
        covariance_eigenvalues(wrong)

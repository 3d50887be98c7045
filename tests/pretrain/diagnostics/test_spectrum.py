from __future__ import annotations

import math

import pytest
import torch
from hjepa_pretrain.diagnostics.spectrum import gram_eigenvalues, participation_ratio_of, rankme_of


def rankme(features: torch.Tensor) -> float:
    return rankme_of(gram_eigenvalues(features))


def participation_ratio(features: torch.Tensor) -> float:
    return participation_ratio_of(gram_eigenvalues(features, centred=True))


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[
        0
    ]


def test_rankme__is_one_for_one_direction_and_counts_equal_ones() -> None:
    assert rankme(torch.outer(torch.arange(1.0, 51.0), torch.tensor([1.0, -2.0, 3.0]))) == pytest.approx(1, abs=1e-4)
    assert rankme(orthonormal(100, 7)) == pytest.approx(7, abs=1e-6)
    assert rankme(torch.eye(8)[:5]) == pytest.approx(5, abs=1e-6)


def test_rankme__of_singular_values_3_and_1_by_hand() -> None:
    # p = (3/4, 1/4): exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 4 / 3^(3/4)
    assert rankme(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(4 / 3**0.75)


def test_participation_ratio__of_variances_9_and_1_by_hand() -> None:
    # (9 + 1)^2 / (81 + 1)
    rows = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
    assert participation_ratio(rows) == pytest.approx(100 / 82)
    assert participation_ratio(rows + 50.0) == pytest.approx(100 / 82)


@pytest.mark.parametrize("shape", [(300, 40), (20, 40)])
def test_rankme__by_gram_matrix_equals_singular_values(shape: tuple[int, int]) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) @ torch.diag(0.8 ** torch.arange(40.0))
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum()
    assert rankme(features) == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-6)


def test_ranks__do_not_change_with_order_scale_or_rotation() -> None:
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(1)).double() @ torch.diag(
        0.7 ** torch.arange(16.0, dtype=torch.float64)
    )
    changed = 1e-3 * features.flip(0) @ orthonormal(16, 16)
    assert rankme(changed) == pytest.approx(rankme(features), rel=1e-9)
    assert participation_ratio(changed) == pytest.approx(participation_ratio(features), rel=1e-9)


def test_ranks__of_nothing_are_zero_and_of_nan_are_nan() -> None:
    constant = torch.full((1000, 6), 0.1)
    assert not gram_eigenvalues(constant, centred=True).any()
    assert participation_ratio(constant) == 0.0
    assert rankme(torch.zeros(4, 3)) == 0.0
    broken = torch.ones(4, 3).index_fill(0, torch.tensor([1]), math.nan)
    assert math.isnan(rankme(broken))
    assert math.isnan(participation_ratio(broken))

from __future__ import annotations

import math

import pytest
import torch
from hjepa_pretrain import losses


def spread(count: int = 512, dim: int = 16) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_level_loss__hand_computed() -> None:
    prediction = torch.tensor([[[0.5, 3.0], [9.0, 9.0]]])
    target = torch.zeros(1, 2, 2)
    valid = torch.tensor([[True, False]])
    assert losses.level_loss(prediction, target, valid).item() == pytest.approx((0.125 + 2.5) / 2)
    assert losses.level_loss(prediction, target, valid, kind="mse").item() == pytest.approx((0.25 + 9) / 2)


def test_level_loss__padding_gets_zero_gradient_and_has_no_influence() -> None:
    prediction = torch.randn(2, 3, 4, requires_grad=True)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    target = torch.randn(2, 3, 4)
    loss = losses.level_loss(prediction, target, valid)
    loss.backward()
    assert (prediction.grad[~valid] == 0).all()
    assert (prediction.grad[valid] != 0).all()
    target[~valid] = float("nan")
    assert losses.level_loss(prediction, target, valid).item() == loss.item()


def test_level_loss__no_valid_cell_costs_nothing() -> None:
    nothing = losses.level_loss(torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert nothing.item() == 0


def test_hierarchical_loss__weighs_the_levels() -> None:
    ones, valid = torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)
    total, levels = losses.hierarchical_loss([ones, ones], [ones * 0, ones * 0], [valid, valid], weights=(1.0, 0.5))
    assert levels.tolist() == [0.5, 0.5]
    assert total.item() == 0.75


@pytest.mark.parametrize("name", ["variance", "sigreg", "contrast", "covariance"])
def test_regularisers__collapse_costs_more_than_spread(name: str) -> None:
    line = spread()[:, :1] * torch.ones(16)
    point = torch.zeros(512, 16) + 0.3
    terms = {
        "variance": (losses.variance_hinge, point),
        "sigreg": (lambda z: losses.sigreg(z, generator=generator()), point),
        "contrast": (lambda z: losses.contrast(z, z), point),
        "covariance": (losses.covariance_penalty, line),
    }
    term, collapsed = terms[name]
    assert term(collapsed).item() > 2 * term(spread()).item()


def test_sigreg__is_about_zero_for_a_standard_normal_and_ranks_a_partial_collapse_between() -> None:
    half = spread(4096)
    half[:, 8:] = 0
    values = [
        losses.sigreg(vectors, generator=generator()).item() for vectors in (spread(4096), half, torch.zeros(4096, 16))
    ]
    assert values[0] < 0.002
    assert values[0] < values[1] < values[2]


def test_variance_hinge__pushes_apart_what_has_nearly_collapsed() -> None:
    vectors = (spread() * 1e-3).requires_grad_()
    losses.variance_hinge(vectors).backward()
    assert ((vectors.grad * (vectors - vectors.mean(dim=0))).sum(dim=0) < 0).all()


def test_invariance__is_the_distance_of_views_and_zero_for_one() -> None:
    views = torch.stack((torch.zeros(4, 2), torch.full((4, 2), 2.0)))
    assert losses.invariance(views).item() == 1.0
    assert losses.invariance(views[:1]).item() == 0.0


def test_contrast__hand_computed() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert losses.contrast(first, first, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)

from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.objectives import losses

from hjepa_eval.errors import UnknownNameError


def spread(count: int = 512, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "beta", "expected"),
    [
        ("smooth_l1", 1.0, (0.125 + 2.5) / 2),
        ("smooth_l1", 2.0, (0.0625 + 2.0) / 2),
        ("huber", 1.0, (0.125 + 2.5) / 2),
        ("huber", 2.0, (0.125 + 4.0) / 2),
        ("huber", 0.25, (0.09375 + 0.71875) / 2),
        ("mse", 1.0, (0.25 + 9.0) / 2),
    ],
)
def test_level_loss__hand_computed(kind: str, beta: float, expected: float) -> None:
    prediction = torch.tensor([[[0.5, 3.0], [9.0, 9.0]]])
    valid = torch.tensor([[True, False]])
    loss = losses.level_loss(prediction, torch.zeros(1, 2, 2), valid, kind=kind, beta=beta)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_level_loss__padding_gets_zero_gradient_and_has_no_influence(kind: str) -> None:
    prediction = spread(6, 4).reshape(2, 3, 4).requires_grad_()
    valid = torch.tensor([[True, True, False], [True, False, False]])
    target = spread(6, 4, seed=1).reshape(2, 3, 4)
    loss = losses.level_loss(prediction, target, valid, kind=kind)
    loss.backward()
    assert (prediction.grad[~valid] == 0).all()
    assert (prediction.grad[valid] != 0).all()
    target[~valid] = float("nan")
    broken = prediction.detach().clone()
    broken[~valid] = float("inf")
    broken.requires_grad_()
    again = losses.level_loss(broken, target, valid, kind=kind)
    again.backward()
    assert again.item() == loss.item()
    assert torch.equal(broken.grad, prediction.grad)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_level_loss__a_constant_prediction_costs_more_than_the_target_itself(kind: str) -> None:
    target, valid = spread().reshape(64, 8, 16), torch.ones(64, 8, dtype=torch.bool)
    line = target[..., :1].expand_as(target)
    values = [losses.level_loss(each, target, valid, kind=kind).item() for each in (target, line, target * 0)]
    assert values[0] == 0
    assert min(values[1:]) > 0.1


def test_level_loss__no_gradient_reaches_the_target() -> None:
    target = spread(2, 3).reshape(1, 2, 3).requires_grad_()
    prediction = torch.zeros(1, 2, 3, requires_grad=True)
    losses.level_loss(prediction, target, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert target.grad is None


def test_level_loss__no_valid_cell_costs_nothing() -> None:
    prediction = torch.randn(1, 2, 3, requires_grad=True)
    nothing = losses.level_loss(prediction, torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert (prediction.grad == 0).all()


def test_level_loss__bf16_counts_as_fp32() -> None:
    prediction, target = spread(8, 4).bfloat16().reshape(2, 4, 4), spread(8, 4, seed=1).reshape(2, 4, 4)
    valid = torch.ones(2, 4, dtype=torch.bool)
    loss = losses.level_loss(prediction, target, valid)
    assert loss.dtype == torch.float32
    assert loss.item() == losses.level_loss(prediction.float(), target, valid).item()


def test_level_loss__an_unknown_kind_is_named() -> None:
    ones = torch.ones(1, 1, 1)
    with pytest.raises(UnknownNameError, match=r"unknown loss 'hubert'.*'huber'.*known: smooth_l1, mse, huber"):
        losses.level_loss(ones, ones, torch.ones(1, 1, dtype=torch.bool), kind="hubert")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1.0, 0.5, 0.25), 0.5 * 1 + 2.0 * 0.5 + 8.0 * 0.25), ((1.0, 1.0, 0.5, 1.0), 0.5 + 2.0 + 8.0 * 0.5 + 32.0)],
)
def test_hierarchical_loss__weighs_the_levels(weights: tuple[float, ...], expected: float) -> None:
    predictions = [torch.full((2, 4 - level, 3), 2.0**level) for level in range(len(weights))]
    targets = [torch.zeros_like(prediction) for prediction in predictions]
    valid = [torch.ones(prediction.shape[:2], dtype=torch.bool) for prediction in predictions]
    total, levels = losses.hierarchical_loss(predictions, targets, valid, weights=weights, kind="huber", beta=100.0)
    assert levels.tolist() == [0.5 * 4**level for level in range(len(weights))]
    assert total.item() == expected


def test_hierarchical_loss__a_weight_too_few_is_an_error() -> None:
    ones, valid = torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="longer"):
        losses.hierarchical_loss([ones, ones], [ones, ones], [valid, valid], weights=(1.0,))


def test_explained_variance__hand_computed_over_valid_cells() -> None:
    target = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [7.0, 7.0]]])
    valid = torch.tensor([[True, True, False]])
    assert losses.explained_variance(target, target, valid).item() == pytest.approx(1.0)
    mean = torch.ones_like(target)
    assert losses.explained_variance(mean, target, valid).item() == pytest.approx(0.0)
    prediction = torch.tensor([[[0.5, 1.0], [2.0, 1.5], [0.0, 0.0]]])
    assert losses.explained_variance(prediction, target, valid).item() == pytest.approx(1 - 0.5 / 2.0, rel=1e-5)


def test_explained_variance__is_finite_detached_and_zero_without_valid_cells() -> None:
    prediction = torch.randn(1, 2, 3, requires_grad=True)
    value = losses.explained_variance(prediction, torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert value.item() == 0
    assert not value.requires_grad


def test_cycle_consistency__hand_computed() -> None:
    original = torch.tensor([[1.0, 3.0], [-1.0, 0.0]])
    returned = torch.tensor([[1.0, 3.0], [-0.6, 0.0]])
    # Dimension 0: errors 0 and .08 over .5 and .5; dimension 1: a perfect return over Huber(1.5) = 1.
    expected = ((0.04 + 1e-4) / (0.5 + 1e-4) + 1e-4 / (1.0 + 1e-4)) / 2
    assert losses.cycle_consistency(original, returned).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.rows("C3")
def test_cycle_consistency__collapse_costs_more_than_spread_and_as_much_as_knowing_nothing() -> None:
    vectors = spread()
    half = vectors.clone()
    half[:, 8:] = 0
    mean = vectors.mean(dim=0).expand_as(vectors)
    perfect, dead, collapsed = (losses.cycle_consistency(each, each).item() for each in (vectors, half, mean))
    assert perfect < 0.001
    assert dead == pytest.approx(0.5, abs=0.001)
    assert collapsed == pytest.approx(1.0)
    assert losses.cycle_consistency(vectors, mean).item() == pytest.approx(1.0)


def test_cycle_consistency__shrinking_gains_nothing_where_the_plain_error_rewards_it() -> None:
    original, noise = spread() * 0.3, spread(seed=1) * 0.1

    def slope(loss: object) -> float:
        scale = torch.tensor(1.0, requires_grad=True)
        return torch.autograd.grad(loss(scale * original, scale * (original + noise)), scale)[0].item()

    plain = slope(torch.nn.HuberLoss())
    assert plain > 0.001
    assert slope(losses.cycle_consistency) < 0


def test_cycle_consistency__a_line_is_not_seen_and_needs_the_covariance_term() -> None:
    line = spread(dim=1).expand(512, 16)
    assert losses.cycle_consistency(line, line).item() < 0.001


def test_cycle_consistency__invalid_vectors_have_no_influence_and_no_gradient() -> None:
    original, valid = spread(6, 4).reshape(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]])
    returned = (original + 0.1 * spread(6, 4, seed=1).reshape(2, 3, 4)).requires_grad_()
    loss = losses.cycle_consistency(original, returned, valid=valid)
    loss.backward()
    assert (returned.grad[~valid] == 0).all()
    assert loss.item() == pytest.approx(losses.cycle_consistency(original[valid], returned[valid]).item())
    original[~valid] = float("nan")
    assert losses.cycle_consistency(original, returned, valid=valid).item() == pytest.approx(loss.item())


def test_cycle_consistency__the_gradient_at_collapse_is_finite() -> None:
    vectors = torch.full((8, 4), 0.3, requires_grad=True)
    losses.cycle_consistency(vectors, vectors * 1.0).backward()
    assert vectors.grad.isfinite().all()


def test_cycle_consistency__the_order_of_the_batch_changes_nothing() -> None:
    original, returned, order = spread(), spread() * 0.9, torch.randperm(512)
    value = losses.cycle_consistency(original, returned).item()
    assert losses.cycle_consistency(original[order], returned[order]).item() == pytest.approx(value, rel=1e-5)

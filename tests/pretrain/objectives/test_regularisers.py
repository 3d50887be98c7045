"""VICReg, C-JEPA, SIGReg and contrast: what collapses costs more than what is spread."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hjepa_pretrain.objectives import contrast as contrast_module
from hjepa_pretrain.objectives import sigreg as sigreg_module
from hjepa_pretrain.objectives import vicreg as vicreg_module
from hjepa_pretrain.objectives.losses import level_loss
from torch import Tensor

contrast, sigreg = contrast_module.contrast, sigreg_module.sigreg
Term = Callable[[Tensor], Tensor]


def spread(count: int = 512, dim: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def directions(dim: int = 16, slices: int = 256) -> Tensor:
    return sigreg_module.sigreg_directions(dim, slices, generator=torch.Generator().manual_seed(1))


def c_jepa(vectors: Tensor) -> Tensor:
    """C-JEPA where levels and views are all `vectors`, so that only VICReg can tell collapse from spread."""
    level, valid = vectors.unsqueeze(1), torch.ones(len(vectors), 1, dtype=torch.bool)
    return vicreg_module.c_jepa([level], [level], [valid], first=vectors, second=vectors, weights=(1.0,))


TERMS: dict[str, Term] = {
    "variance": vicreg_module.variance_hinge,
    "covariance": vicreg_module.covariance_penalty,
    "vicreg": lambda vectors: vicreg_module.vicreg(vectors, vectors),
    "c_jepa": c_jepa,
    "sigreg": lambda vectors: sigreg(vectors, directions()),
    "contrast": lambda vectors: contrast(vectors, vectors),
}
POINT, LINE = torch.full((512, 16), 0.3), spread(dim=1).expand(512, 16)
SEEN = [(name, POINT) for name in TERMS if name != "covariance"] + [
    (name, LINE) for name in ("covariance", "vicreg", "c_jepa", "sigreg", "contrast")
]


@pytest.mark.rows("C3", "F")
@pytest.mark.parametrize(("name", "collapsed"), SEEN, ids=[f"{n}-{'point' if c is POINT else 'line'}" for n, c in SEEN])
def test_regularisers__collapse_costs_more_than_spread(name: str, collapsed: Tensor) -> None:
    assert TERMS[name](collapsed).item() > 2 * TERMS[name](spread()).item()


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_regularisers__the_gradient_at_collapse_is_finite(name: str, value: float) -> None:
    vectors = torch.full((8, 16), value, requires_grad=True)
    TERMS[name](vectors).backward()
    assert vectors.grad.isfinite().all()
    assert vectors.grad.abs().max() < 100


@pytest.mark.parametrize("name", TERMS)
def test_regularisers__the_order_of_the_batch_changes_nothing(name: str) -> None:
    vectors, order = spread(), torch.randperm(512, generator=torch.Generator().manual_seed(2))
    assert TERMS[name](vectors[order]).item() == pytest.approx(TERMS[name](vectors).item(), rel=1e-4)


@pytest.mark.parametrize("name", TERMS)
def test_regularisers__autocast_and_bf16_input_are_computed_in_fp32(name: str) -> None:
    vectors = spread().bfloat16()
    value = TERMS[name](vectors.float()).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert TERMS[name](vectors).item() == value


def test_variance_hinge__hand_computed() -> None:
    # Variances .5 and 8: the first falls short of 1, the second does not.
    vectors = torch.tensor([[0.0, 0.0], [1.0, 4.0]])
    assert vicreg_module.variance_hinge(vectors).item() == pytest.approx((1 - math.sqrt(0.5001)) / 2, rel=1e-5)


def test_variance_hinge__pushes_apart_what_has_nearly_collapsed() -> None:
    vectors = (spread() * 1e-3).requires_grad_()
    vicreg_module.variance_hinge(vectors).backward()
    assert ((vectors.grad * (vectors - vectors.mean(dim=0))).sum(dim=0) < 0).all()


def test_covariance_penalty__hand_computed_off_the_diagonal_alone() -> None:
    vectors = torch.tensor([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])
    # The covariance of dimensions 0 and 1 is 4, twice in the matrix; variances 2 and 8 do not count.
    assert vicreg_module.covariance_penalty(vectors).item() == pytest.approx(2 * 16 / 3)
    assert vicreg_module.covariance_penalty(torch.diag(torch.ones(3))[:, :1] * 9).item() == 0


def test_invariance__is_the_mean_squared_distance_of_the_same_image() -> None:
    first, second = torch.zeros(4, 2), torch.tensor([[2.0, 0.0]]).expand(4, 2)
    assert vicreg_module.invariance(first, second).item() == 2.0
    assert vicreg_module.invariance(second, second).item() == 0.0
    assert vicreg_module.invariance(spread(), spread().flip(0)).item() > 1, "rows of other images do not agree"


def test_vicreg__hand_computed_with_the_weights_of_the_paper() -> None:
    first, second = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]) / 4, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) / 4
    # s = 2 * .25 / 4; variances 1/8, 1/2 and 1/8, 0; the only covariance is 1/4, in `first`.
    short = [1 - math.sqrt(variance + 1e-4) for variance in (1 / 8, 1 / 2, 1 / 8, 0.0)]
    expected = 25 * 0.125 + 25 * (sum(short[:2]) / 2 + sum(short[2:]) / 2) / 2 + 1 * 2 * (1 / 4) ** 2 / 2
    assert vicreg_module.vicreg(first, second).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.rows("F")
def test_c_jepa__is_the_level_loss_and_a_thousandth_of_vicreg() -> None:
    prediction, target = spread(8, 6).reshape(4, 2, 6), spread(8, 6, seed=1).reshape(4, 2, 6)
    valid = torch.tensor([[True, True], [True, False]] * 2)
    first, second = spread(4, 6, seed=2), spread(4, 6, seed=3)
    loss = vicreg_module.c_jepa([prediction], [target], [valid], first=first, second=second, weights=(0.5,))
    expected = 0.5 * level_loss(prediction, target, valid) + 0.001 * vicreg_module.vicreg(first, second)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sigreg__hand_computed_against_the_integral_for_one_direction() -> None:
    vectors = torch.tensor([[2.0, 0.5], [2.0, -1.5]])
    t = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2)
    function = (torch.exp(1j * t * 0.5) + torch.exp(-1j * t * 1.5)) / 2
    expected = torch.trapezoid((function - normal).abs().square() * normal, t).item()
    along = torch.tensor([[0.0], [1.0]])
    assert sigreg(vectors, along).item() == pytest.approx(expected, rel=0.01)
    assert sigreg(vectors, along, knots=2001).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.rows("F")
def test_sigreg__of_a_standard_normal_is_the_noise_of_its_size() -> None:
    values = [sigreg(spread(1000, seed=seed), directions()).item() for seed in range(20)]
    assert sum(values) / 20 == pytest.approx(1.05 / 1000, rel=0.1)


def test_sigreg__ranks_a_partial_collapse_between() -> None:
    half = spread(4096)
    half[:, 8:] = 0
    values = [sigreg(vectors, directions()).item() for vectors in (spread(4096), half, torch.zeros(4096, 16))]
    assert values[0] < 0.002
    assert 2 * values[0] < values[1] < values[2] / 2


def test_sigreg__scale_and_place_matter() -> None:
    right = sigreg(spread(), directions()).item()
    assert sigreg(spread() * 2, directions()).item() > 2 * right
    assert sigreg(spread() + 1, directions()).item() > 2 * right


def test_sigreg_directions__are_unit_columns_that_the_generator_decides() -> None:
    made = directions(16, 64)
    assert made.shape == (16, 64)
    torch.testing.assert_close(made.norm(dim=0), torch.ones(64))
    assert torch.equal(made, directions(16, 64))
    other = sigreg_module.sigreg_directions(16, 64, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(made, other)


def test_contrast__hand_computed() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert contrast(first, first, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)
    assert contrast(7 * first, first, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def test_contrast__of_one_point_is_guessing() -> None:
    assert contrast(POINT, POINT).item() == pytest.approx(math.log(2 * 512 - 1), rel=1e-5)

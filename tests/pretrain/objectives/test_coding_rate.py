from __future__ import annotations

import math

import pytest
import torch
from hjepa_pretrain.config.settings import GlobalSettings
from hjepa_pretrain.objectives.coding_rate import coding_rate, distance_to_centre
from hjepa_pretrain.objectives.objective import crops_loss


def test_coding_rate__orthogonal_vectors_and_one_vector_by_hand() -> None:
    # P / (B precision) is 2 / (2 * .2) = 5; both eigenvalues of the unit Gram matrix are 1, then 2 and 0.
    assert coding_rate(torch.eye(2) * 7).item() == pytest.approx(-math.log(6))
    assert coding_rate(torch.tensor([[3.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(-math.log(11) / 2)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_coding_rate__both_matrices_have_the_determinant_of_the_definition(shape: tuple[int, int]) -> None:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(vectors, dim=1).double()
    count, width = shape
    lifted = torch.eye(width, dtype=torch.float64) + width / (count * 0.5) * unit.T @ unit
    assert coding_rate(vectors, precision=0.5).item() == pytest.approx(-torch.logdet(lifted).item() / 2, rel=1e-5)


def test_coding_rate__its_gradient_parts_vectors_that_are_nearly_one() -> None:
    vectors = torch.tensor([[1.0, 0.01], [1.0, -0.01]], requires_grad=True)
    coding_rate(vectors).backward()
    assert vectors.grad is not None
    assert vectors.grad[0, 1] < 0 < vectors.grad[1, 1]


def test_distance_to_centre__is_zero_for_one_direction_and_by_hand_for_two() -> None:
    up, right = torch.tensor([[0.0, 2.0]]), torch.tensor([[5.0, 0.0]])
    assert distance_to_centre([up, up * 3]).item() == pytest.approx(0, abs=1e-6)
    assert distance_to_centre([up, right]).item() == pytest.approx(1 - math.sqrt(0.5), rel=1e-5)


def test_crops_loss__means_over_levels_with_their_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(3, 4, 6, generator=generator, requires_grad=True) for _ in range(2)]
    answers = [torch.randn(3, 4, 6, generator=generator) for _ in levels]
    settings = GlobalSettings(centre=2.0, coding_rate=0.5, predict_crops=3.0)
    loss, terms = crops_loss({"projections": levels, "answers": answers}, settings)
    assert set(terms) == {"loss", "centre", "coding_rate", "predict_crops"}
    expected = 2 * terms["centre"] + 0.5 * terms["coding_rate"] + 3 * terms["predict_crops"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    centres = [distance_to_centre(list(level.unbind())).item() for level in levels]
    assert terms["centre"].item() == pytest.approx(sum(centres) / 2, rel=1e-5)
    loss.backward()
    assert all(level.grad is not None and (level.grad != 0).any() for level in levels)


def test_crops_loss__each_crop_is_asked_for_the_next_one_and_the_last_for_the_first() -> None:
    crops = torch.eye(3).unsqueeze(1)  # [V 3, B 1, P 3]
    settings = GlobalSettings(centre=1.0, predict_crops=1.0)
    for answers, distance in ((crops[[1, 2, 0]], 0.0), (-crops[[1, 2, 0]], 2.0), (crops, 1.0)):
        _, terms = crops_loss({"projections": [crops], "answers": [answers]}, settings)
        assert terms["predict_crops"].item() == pytest.approx(distance, abs=1e-6)

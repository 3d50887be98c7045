from __future__ import annotations

import math

import pytest
import torch
from hjepa_pretrain.jepa.movements import draw_poses, inverse, look, movement_between, told
from hjepa_pretrain.jepa.saccade import SaccadeJEPA

from hjepa_eval.errors import ConfigError


def poses(count: int = 5, seed: int = 0) -> torch.Tensor:
    return draw_poses(count, shift=0.3, rotation=90, generator=torch.Generator().manual_seed(seed))


def small(**options: float) -> SaccadeJEPA:
    return SaccadeJEPA("resnet10t", image_size=32, levels=2, **options)  # type: ignore[arg-type]


@pytest.mark.rows("E3")
def test_inverse__undoes_the_movement() -> None:
    before, after = poses(), poses(seed=1)
    there, back = movement_between(before, after), movement_between(after, before)
    torch.testing.assert_close(inverse(there), back)
    torch.testing.assert_close(inverse(inverse(there)), there)
    # The sign of what is told is no inverse: a cosine does not know its angle's.
    assert not torch.allclose(told(inverse(there)), -told(there))


@pytest.mark.rows("E3")
def test_look__a_quarter_turn_and_a_shift_are_those_of_the_pixels() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    turned = look(image, torch.tensor([[math.pi / 2, 0.0, 0.0]]))
    torch.testing.assert_close(turned, image.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    shifted = look(image, torch.tensor([[0.0, 0.5, 0.0]]))
    torch.testing.assert_close(shifted[..., :3], image[..., 1:], atol=1e-4, rtol=0)


@pytest.mark.rows("E3")
def test_loss__has_all_terms_and_reaches_network_and_predictor() -> None:
    model = small()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    loss, terms = model.training_loss(images, generator=torch.Generator().manual_seed(0))
    assert set(terms) == {"loss", "prediction", "cycle", "invariance", "variance", "covariance", "r2"}
    torch.autograd.backward(loss)
    for part in model.watched().values():
        assert any(parameter.grad is not None for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in model.target_network.parameters())
    again, _ = model.training_loss(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, again)


@pytest.mark.rows("E3")
def test_target__has_the_running_statistics_of_the_network() -> None:
    model = small()
    model.training_loss(
        torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), generator=torch.Generator().manual_seed(0)
    )
    model.update_target(0.9)
    for mine, other in zip(model.target_network.buffers(), model.network.buffers(), strict=True):
        assert torch.equal(mine, other)
    assert not model.train().target_network.training


def test_saccade__that_does_not_move_is_refused() -> None:
    with pytest.raises(ConfigError, match="shift or a rotation"):
        small(shift=0, rotation=0)
    with pytest.raises(ConfigError, match=r"levels 9: resnet10t has 5 stages"):
        SaccadeJEPA("resnet10t", levels=9)

from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.models import create_hjepa

from hjepa_eval.encoders.networks.energy import EnergyBlock
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import EncoderError

BLOCK = EnergyBlock(16, 4, memories=64, alpha=0.05).double()


def tokens(batch: int = 3, count: int = 7) -> torch.Tensor:
    return torch.randn(batch, count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.rows("E2")
def test_gradient__of_autograd_is_the_closed_form() -> None:
    normed = tokens().requires_grad_()
    (expected,) = torch.autograd.grad(BLOCK.energy_of_normed(normed).sum(), normed)
    torch.testing.assert_close(BLOCK.gradient(normed), expected)


@pytest.mark.rows("E2")
def test_energy__falls_at_every_step() -> None:
    state, energies = tokens(), []
    with torch.no_grad():
        for _ in range(12):
            energies.append(BLOCK.energy(state))
            state = BLOCK(state)
    falls = torch.stack(energies).diff(dim=0)
    assert (falls < 0).all()


@pytest.mark.rows("E2")
def test_mask__hidden_tokens_take_no_part() -> None:
    seen, both = tokens(count=5), tokens(count=5)
    both = torch.cat((seen, torch.randn(3, 2, 16, dtype=torch.float64)), dim=1)
    mask = torch.zeros(3, 1, 1, 7).masked_fill_(torch.arange(7) >= 5, float("-inf"))
    torch.testing.assert_close(BLOCK(both, mask)[:, :5], BLOCK(seen))


@pytest.mark.rows("E2")
def test_steps__share_one_energy_through_copies_and_moves() -> None:
    model = create_vit("energy_tiny_patch4_32", depth=3)
    names = [name for name, _ in model.named_parameters() if name.startswith("blocks")]
    assert names
    assert all(name.startswith("blocks.0.") for name in names)
    hjepa = create_hjepa("energy_tiny_patch4_32", encoder_depth=3, num_hierarchies=2, predictor_depth=1)
    for encoder in (hjepa.context_encoder, hjepa.target_encoder):
        assert encoder.vit.blocks[2]._block[0] is encoder.vit.blocks[0]
    assert hjepa.context_encoder.vit.blocks[0] is not hjepa.target_encoder.vit.blocks[0]


@pytest.mark.rows("E2", "A3")
@pytest.mark.parametrize("levels", [1, 3])
def test_runs__flat_and_hierarchical_drop_what_zero_hides(levels: int) -> None:
    drop = create_hjepa("energy_tiny_patch8_32", encoder_depth=3, num_hierarchies=levels, predictor_depth=1)
    images, context = torch.randn(2, 3, 32, 32), torch.tensor([[0, 5, 9], [2, 3, 15]])
    dropped = drop.context_encoder(images, context)
    drop.context_encoder.mask_mode = "zero"
    zeroed = drop.context_encoder(images, context, hide_zeroed=True)
    for one, other in zip(dropped, zeroed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    mask = torch.zeros(2, 16).index_fill_(1, torch.arange(4), 1.0)
    outputs = drop(images, mask)
    torch.autograd.backward(torch.stack([prediction.square().mean() for prediction in outputs["predictions"]]).sum())
    assert drop.context_encoder.vit.blocks[0].key.weight.grad.abs().sum() > 0


def test_rotary_positions__are_refused() -> None:
    with pytest.raises(EncoderError, match="no rotary positions"):
        create_vit("energy_tiny_patch4_32", positions="rope")

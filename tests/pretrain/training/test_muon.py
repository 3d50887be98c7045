from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.config.settings import TrainSettings
from hjepa_pretrain.training.muon import Muon, orthogonalised
from hjepa_pretrain.training.optimizer import make_optimizer, moments, numbers_kept, restore_moments
from torch import nn

from hjepa_eval.errors import CheckpointError

SETTINGS = TrainSettings(epochs=1, optimizer="muon", lr=1e-3, muon_lr=0.1, weight_decay=0.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Conv2d(2, 4, 3), "out": nn.Linear(4, 2)})


def step(network: nn.ModuleDict, optimizer: torch.optim.Optimizer, *, seed: int = 0) -> None:
    optimizer.zero_grad(set_to_none=True)
    network["out"](network["encoder"](noise(5, 2, 6, 6, seed=seed)).mean(dim=(2, 3))).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_orthogonalised__keeps_singular_vectors_and_evens_singular_values(shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonalised(matrix) @ right.T
    torch.testing.assert_close(values, torch.diag(values.diagonal()), atol=1e-4, rtol=0)
    assert values.diagonal().min() > 0.3
    assert values.diagonal().max() < 1.6
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


def test_muon__first_step_is_the_orthogonalised_gradient_and_the_rest_is_adamw() -> None:
    muon, adamw = model(), model()
    before = muon["encoder"].weight.detach().clone()
    muon["out"](muon["encoder"](noise(5, 2, 6, 6)).mean(dim=(2, 3))).square().sum().backward()
    gradient = muon["encoder"].weight.grad
    step(muon, make_optimizer(muon, SETTINGS))
    step(adamw, make_optimizer(adamw, SETTINGS.model_copy(update={"optimizer": "adamw"})))
    moved = before - 0.1 * orthogonalised(gradient.flatten(1)).view_as(before)
    torch.testing.assert_close(muon["encoder"].weight.detach(), moved, atol=1e-5, rtol=1e-4)
    for name in ("encoder.bias", "out.weight", "out.bias"):
        assert torch.equal(muon.get_parameter(name), adamw.get_parameter(name)), name


def test_muon__goes_on_from_its_moments_bit_for_bit() -> None:
    whole, parts = model(), model()
    optimizer, first = make_optimizer(whole, SETTINGS), make_optimizer(parts, SETTINGS)
    assert isinstance(first, Muon)
    for seed in range(4):
        step(whole, optimizer, seed=seed)
    for seed in range(2):
        step(parts, first, seed=seed)
    kept = {name: tensor.clone() for name, tensor in moments(first, parts).items()}
    assert "momentum.encoder.weight" in kept
    assert "exp_avg.encoder.weight" not in kept
    assert sum(tensor.numel() for name, tensor in kept.items() if "step" not in name) == numbers_kept(parts, SETTINGS)
    second = make_optimizer(parts, SETTINGS)
    restore_moments(second, parts, kept)
    for seed in (2, 3):
        step(parts, second, seed=seed)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, parts.get_parameter(name)), name
    kept.pop("momentum.encoder.weight")
    with pytest.raises(CheckpointError, match=r"momentum\.encoder\.weight"):
        restore_moments(second, parts, kept)

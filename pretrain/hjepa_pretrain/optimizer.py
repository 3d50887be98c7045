"""AdamW with weight decay on matrices only, and its moments as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hjepa_eval.errors import CheckpointError, first_few
from hjepa_pretrain.config import TrainSettings
from hjepa_pretrain.sharding import spread_like

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_NEVER_DECAYED = ("pos_embed", "cls_token", "reg_token", "mask_token", "level_embed")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that get a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return fused AdamW; biases, norms, positions and tokens are not decayed."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trainable(model).items():
        plain = parameter.ndim >= 2 and not name.endswith(_NEVER_DECAYED)
        (decayed if plain else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `MOMENT.PARAMETER`."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in trainable(model).items()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def _place(tensor: Tensor, parameter: nn.Parameter, moment: str) -> Tensor:
    """Return a copy of a moment where its parameter lies; the number of steps is whole on every rank."""
    copy = tensor.clone().to(parameter.device)
    return copy if moment == "step" else spread_like(copy, parameter)


def restore_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the optimizer's state from what `moments` returned; an empty mapping is the state before the first step.

    Raises:
        CheckpointError: tensors are missing.
    """
    if not tensors:
        return
    names = trainable(model)
    missing = [f"{moment}.{name}" for name in names for moment in _MOMENTS if f"{moment}.{name}" not in tensors]
    if missing:
        raise CheckpointError(f"the checkpoint lacks optimizer tensors: {first_few(missing)}")
    for name, parameter in names.items():
        optimizer.state[parameter] = {
            moment: _place(tensors[f"{moment}.{name}"], parameter, moment) for moment in _MOMENTS
        }

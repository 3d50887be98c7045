"""AdamW, or Muon for matrices; moments as named tensors; gradients averaged over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hjepa_eval.errors import CheckpointError, first_few
from hjepa_pretrain.config.settings import TrainSettings
from hjepa_pretrain.distributed.across_ranks import buckets, rank_and_count
from hjepa_pretrain.training.muon import Muon
from hjepa_pretrain.training.sharding import spread_like


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; the same parameters have one on every rank.

    The buckets are summed while the next ones are filled. Deviation from torch's DDP: the exchange begins after the
    backward pass, not during it, because the step is compiled as one graph, which yields all gradients at its end
    (DDP would cut the graph instead). All ranks get the same bits, so weights never drift apart.
    """
    count = rank_and_count()[1]
    if count == 1:
        return
    under_way = []
    for bucket in buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in under_way:
        work.wait()
        flat /= count
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)])


def average_running_statistics(network: nn.Module) -> None:
    """Replace the running mean and variance of BatchNorm by their mean over ranks.

    Deviation: the batch statistics of an encoder's BatchNorm are those of each rank's own images, as DDP has it;
    those of the projector are of all images (`models.batch_norm`).
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    count = rank_and_count()[1]
    if count == 1 or not norms:
        return
    running = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
    flat = torch.cat(running)
    dist.all_reduce(flat)
    torch._foreach_copy_(running, list(torch.split(flat / count, [len(tensor) for tensor in running])))


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_MUON_MOMENTS = ("momentum",)
_NEVER_DECAYED = ("pos_embed", "cls_token", "reg_token", "mask_token", "level_embed")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that get a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return fused AdamW, or `Muon`; biases, norms, positions and tokens are not decayed.

    Muon moves the matrices of the context encoder but for its first one, and hidden layers of heads; AdamW the rest.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trainable(model).items():
        if parameter.ndim < 2 or name.endswith(_NEVER_DECAYED):
            others.append(parameter)
        elif settings.optimizer == "muon" and _is_hidden(name):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    scale = settings.muon_lr / settings.lr
    groups.append(
        {"params": matrices, "weight_decay": decay, "muon": True, "scale": scale, "momentum": settings.muon_momentum}
    )
    return Muon(groups, lr=settings.lr, betas=settings.betas, fused=True)


def _is_hidden(name: str) -> bool:
    """Tell whether a matrix lies between others, where Muon is at home."""
    return name.endswith(".hidden.weight") or ("encoder." in name and not name.endswith("patch_embed.proj.weight"))


def numbers_kept(model: nn.Module, settings: TrainSettings) -> int:
    """Return how many numbers the optimizer keeps for the parameters that get a gradient."""
    groups = make_optimizer(model, settings).param_groups
    return sum((1 if group.get("muon") else 2) * p.numel() for group in groups for p in group["params"])


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `MOMENT.PARAMETER`."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in trainable(model).items()
        if parameter in optimizer.state
        for moment in optimizer.state[parameter]
    }


def _moments_of(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, tuple[str, ...]]:
    """Return the names of what the optimizer keeps for each parameter."""
    return {
        parameter: _MUON_MOMENTS if group.get("muon") else _MOMENTS
        for group in optimizer.param_groups
        for parameter in group["params"]
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
    names, kept = trainable(model), _moments_of(optimizer)
    wanted = [f"{moment}.{name}" for name, parameter in names.items() for moment in kept[parameter]]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(f"the checkpoint lacks optimizer tensors: {first_few(missing)}")
    for name, parameter in names.items():
        optimizer.state[parameter] = {
            moment: _place(tensors[f"{moment}.{name}"], parameter, moment) for moment in kept[parameter]
        }

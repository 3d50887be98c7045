"""Weights, gradients and moments spread over ranks by `fully_shard`, and whole tensors made of them again.

Every block of the encoders and the predictor is gathered when it is needed and given up again; what lies outside of
blocks is one more group. Checkpoints hold whole tensors, so they do not know how a run was spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hjepa_pretrain.models import HJEPA


def shard(model: HJEPA, device: torch.device, *, compiled: bool = False) -> None:
    """Spread the parameters of `model`, the same on all ranks, over them; blocks are `compiled` one by one or not.

    Deviation: a step is not compiled as one graph, because gathering lies between the blocks.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks: list[Any] = [] if model.predictor is None else [*model.predictor.blocks]
    for encoder in (model.context_encoder, model.target_encoder):
        if encoder.network_name == "vit":  # Other networks have no blocks by one name: they are one group.
            blocks += encoder.vit.blocks
    for block in blocks:
        if compiled:
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def exchange_gradients(model: nn.Module, wanted: bool) -> None:
    """Say whether the next backward pass averages gradients over ranks; without, they are added up on each."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be spread over ranks as a whole one; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return `tensors` as whole ones where `keep` says so, else none of them; all ranks must ask.

    Those that are spread over ranks are gathered one after another, and those kept go to the host's memory at once, so
    that no device ever holds more than one whole tensor. Others stay where they are.
    """
    gathered = {name: _gathered(tensor, keep) for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in gathered.items() if tensor is not None}


def _gathered(tensor: Tensor, keep: bool) -> Tensor | None:
    made = whole(tensor)
    if not keep:
        return None
    return made.cpu() if isinstance(tensor, DTensor) else made


def spread_like(tensor: Tensor, pattern: Tensor | None) -> Tensor:
    """Return a whole `tensor`, the same on all ranks, spread as `pattern` is; nothing is sent."""
    if not isinstance(pattern, DTensor):
        return tensor
    # Without a rank to send from, each one keeps its part of what it has.
    moved = tensor.to(pattern.device)
    return distribute_tensor(moved, pattern.device_mesh, pattern.placements, src_data_rank=None)

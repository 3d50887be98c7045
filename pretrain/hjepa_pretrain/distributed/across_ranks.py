"""Statistics of a batch whose rows lie on several ranks; without a process group everything here is the identity.

The contract: R ranks hold equally many rows each, compute the same objective, and average their gradients, as DDP does.
Then the averaged gradient is the one that a single process with all rows would compute, and so is the averaged loss.
It holds because the adjoint of a sum over ranks is a sum over ranks: a row's gradient collects what every rank's copy
of the objective says about it, R times the single process's, and the average takes the R away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class _SumOverRanks(torch.autograd.Function):
    """All-reduce in both directions. (torch's own differentiable all-reduce refuses to be compiled.)"""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


# A list, so that a compiled graph is made again when it changes.
_ALONE: list[bool] = []


@contextmanager
def as_one_rank() -> Iterator[None]:
    """Let statistics be those of this rank alone, without a word to the others, as long as this is open."""
    _ALONE.append(True)
    try:
        yield
    finally:
        _ALONE.pop()


def rank_and_count() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; (0, 1) without a process group, or `as_one_rank`."""
    if not _ALONE and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


_BUCKET = 25 * 2**20  # bytes, as torch's DDP has it


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of one type and of about 25 MiB, in their order; a group may be sent as one."""
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if group and (size + tensor.nbytes > _BUCKET or tensor.dtype != group[0].dtype):
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.nbytes
    if group:
        yield group


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a floating `tensor` of the same shape on every rank; gradients flow to all ranks."""
    count = rank_and_count()[1]
    return tensor if count == 1 else torch.as_tensor(_SumOverRanks.apply(tensor)) / count


def gather_rows(vectors: Tensor) -> Tensor:
    """Return the rows `[R * B, D]` of all ranks, in the order of the ranks, from floating `[B, D]` on each of them.

    Gradients flow to the rank that a row came from. Each rank puts its rows between zeros, and the ranks are summed:
    more traffic than a gather, but for vectors of whole images that is little.
    """
    rank, count = rank_and_count()
    if count == 1:
        return vectors
    rows = len(vectors)
    return torch.as_tensor(_SumOverRanks.apply(F.pad(vectors, (0, 0, rank * rows, (count - 1 - rank) * rows))))

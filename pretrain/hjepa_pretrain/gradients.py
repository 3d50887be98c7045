"""The mean of gradients over ranks, as `across_ranks` needs it: then R ranks learn what one process would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hjepa_pretrain.across_ranks import rank_and_count

_BUCKET = 25 * 2**20  # bytes, as torch's DDP has it


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
    for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
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


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the gradients in groups of about 25 MiB."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and size + gradient.nbytes > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket

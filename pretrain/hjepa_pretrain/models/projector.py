"""A projector of whole-image vectors, used by objectives against collapse and dropped at evaluation.

Its batch normalisation has the statistics of the rows of all ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hjepa_pretrain.distributed.across_ranks import mean_over_ranks, rank_and_count


class BatchNormOverRanks(nn.BatchNorm1d):
    """BatchNorm1d with the same names, the same answers in evaluation and on one rank, on any device.

    With R ranks of B rows each it answers what one process with R * B rows would. (torch's SyncBatchNorm needs CUDA.)
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Return fp32 rows `[B, D]`, normalised by mean and variance over the rows of all ranks."""
        count = rank_and_count()[1] * len(rows)
        if not self.training or count == len(rows):
            normed: Tensor = super().forward(rows)
            return normed
        mean = mean_over_ranks(rows.mean(dim=0))
        variance = mean_over_ranks((rows - mean).square().mean(dim=0))
        momentum = self.momentum
        assert momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        return (rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class Projector(nn.Module):
    """Linear, BatchNorm, GELU, Linear, of the mean context token of an image (`ContextEncoder.mean_token`).

    BatchNorm sees each view alone, of the images of all ranks.
    """

    def __init__(self, *, encoder_dim: int, hidden_dim: int, out_dim: int) -> None:
        """Build a projector from width `encoder_dim` over `hidden_dim` to `out_dim`."""
        super().__init__()
        self.hidden = nn.Linear(encoder_dim, hidden_dim, bias=False)
        self.norm = BatchNormOverRanks(hidden_dim)
        self.out = nn.Linear(hidden_dim, out_dim)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return fp32 projections `[V, B, out_dim]` of the vectors `[B, encoder_dim]` of V views."""
        hidden = self.hidden(torch.cat(views)).chunk(len(views))
        normed = torch.cat([self.norm(view.float()) for view in hidden])
        return torch.stack(self.out(nn.functional.gelu(normed)).float().chunk(len(views)))

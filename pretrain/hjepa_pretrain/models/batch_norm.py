"""Batch normalisation whose statistics are those of the rows of all ranks."""

from __future__ import annotations

from torch import Tensor, nn

from hjepa_pretrain.across_ranks import mean_over_ranks, rank_and_count


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

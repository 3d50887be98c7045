"""A projector of whole-image vectors, used by objectives against collapse and dropped at evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hjepa_pretrain.models.batch_norm import BatchNormOverRanks


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

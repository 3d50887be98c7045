"""Contrast between views: an image's other view should be nearer than anything else in the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.distributed.across_ranks import gather_rows, rank_and_count


def contrast(first: Tensor, second: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Return how hard it is to find an image's other view among all views of the batch.

    With the 2 N unit vectors z of both views of N images, and z_i' the other view of z_i:

        loss = mean_i -log( exp(z_i . z_i' / temperature) / sum_{k != i} exp(z_i . z_k / temperature) )

    Under several ranks a rank asks for its own images and compares with those of all ranks; the value of the whole
    batch is the mean of the ranks' values. When all vectors are one it is log(2 N - 1), the worst of guessing.

    Args:
        first: `[B, P]`.
        second: `[B, P]`, row i is the other view of row i of `first`.
        temperature: divides the cosines.

    Source: SimCLR (Chen et al. 2020), equation 1, the NT-Xent loss.
    """
    with torch.autocast(first.device.type, enabled=False):
        # Vectors of almost no length are left almost alone, so that no gradient is divided by nothing.
        views = [F.normalize(view.float(), dim=1, eps=1e-6) for view in (first, second)]
        everyone = torch.cat([gather_rows(view) for view in views])
        images = len(everyone) // 2
        own = torch.arange(len(first), device=first.device) + rank_and_count()[0] * len(first)
        cosines = torch.cat(views) @ everyone.T / temperature
        itself = torch.cat((own, own + images)).unsqueeze(1) == torch.arange(len(everyone), device=first.device)
        return F.cross_entropy(cosines.masked_fill(itself, -1e9), torch.cat((own + images, own)))

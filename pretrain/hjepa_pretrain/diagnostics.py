"""What the levels look like during training: spread, rank, and a nearest-neighbour score on a few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.errors import TrainingError
from hjepa_pretrain.models.encoders import ContextEncoder


def rankme(features: Tensor) -> float:
    """Return the effective rank of features `[N, D]`: the exponential of the entropy of their singular values.

    Source: RankMe (Garrido et al. 2023), equation 1.
    """
    values = torch.linalg.svdvals(features.float())
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * (share + 1e-12).log()).sum()))


def mean_deviation(features: Tensor) -> float:
    """Return the standard deviation over images, averaged over the dimensions of `[N, D]`."""
    return float(features.float().std(dim=0).mean())


def leave_one_out_knn(features: Tensor, labels: Tensor, *, k: int = 20, temperature: float = 0.07) -> float:
    """Return the share of images `[N, D]` whose k nearest others, by cosine, vote for their own label."""
    vectors = F.normalize(features.float(), dim=1)
    cosines = (vectors @ vectors.T).fill_diagonal_(-2.0)
    best, nearest = cosines.topk(min(k, len(vectors) - 1), dim=1)
    votes = torch.zeros(len(vectors), int(labels.max()) + 1, device=vectors.device)
    votes.scatter_add_(1, labels[nearest], (best / temperature).exp())
    return float((votes.argmax(dim=1) == labels).float().mean())


@torch.no_grad()
def readouts(encoder: ContextEncoder, images: Tensor, *, batch_size: int = 256) -> list[Tensor]:
    """Return the mean token `[N, D]` of every level for normalised images `[N, 3, H, W]`, in fp32."""
    parts: list[list[Tensor]] = [[] for _ in encoder.taps]
    for start in range(0, len(images), batch_size):
        outputs = encoder(images[start : start + batch_size])
        for level, part in enumerate(parts):
            part.append(outputs[level][:, encoder.prefix :].float().mean(dim=1))
    return [torch.cat(part) for part in parts]


def measure(features: Sequence[Tensor], labels: Tensor) -> dict[str, Any]:
    """Return, per level, `std`, `rankme` and `knn` of features `[N, D]` with labels `[N]`."""
    return {
        "std": [round(mean_deviation(level), 6) for level in features],
        "rankme": [round(rankme(level - level.mean(dim=0)), 3) for level in features],
        "knn": [round(leave_one_out_knn(level, labels), 5) for level in features],
    }


def check_collapse(measures: dict[str, Any], *, smallest: float, step: int) -> None:
    """Check that no level gives the same vector for all images.

    Raises:
        TrainingError: a level's features deviate less than `smallest`.
    """
    for level, deviation in enumerate(measures["std"]):
        if deviation < smallest:
            raise TrainingError(
                f"step {step}: level {level} has collapsed, its features deviate by {deviation:.2g} over images "
                f"(alarm below {smallest:g}); lower train.lr, raise model.ema.momentum, "
                "or add train.whole_image.variance"
            )

"""Errors between a prediction and what the target says, for states of any shape; each is one function in `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain.objectives.contrast import contrast
from hjepa_pretrain.objectives.losses import elementwise_error
from hjepa_pretrain.objectives.sigreg import sigreg, sigreg_directions
from hjepa_pretrain.objectives.vicreg import covariance_penalty, invariance, variance_hinge

PairLoss = Callable[[Tensor, Tensor], Tensor]

_SIGREG_WEIGHT, _SLICES = 0.1, 256


def rows(tensor: Tensor) -> Tensor:
    """Return `[B, D]`, the mean over all that lies between examples and width of `[B, ..., D]`, in fp32."""
    wide = tensor.float()
    return wide if wide.ndim <= 2 else wide.flatten(1, -2).mean(dim=1)


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `1 - cos` of the last dimension, averaged over everything else; 0 where directions agree.

    Source: BYOL (Grill et al. 2020), whose loss is twice this.
    """
    return 1.0 - F.cosine_similarity(prediction.float(), target.float(), dim=-1).mean()


def info_nce(prediction: Tensor, target: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Return InfoNCE between the mean vectors of examples; the other examples of a batch are the wrong answers."""
    return contrast(rows(prediction), rows(target), temperature=temperature)


def vicreg_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 25 s + 25 v + c of VICReg; variance and covariance are of the vectors that get a gradient.

    Source: VICReg (Bardes et al. 2022), equation 6. Deviation: one side has variance and covariance, since the other
    has no gradient where the target is a moving average.
    """
    first, second = rows(prediction), rows(target)
    return 25.0 * invariance(first, second) + 25.0 * variance_hinge(first) + covariance_penalty(first)


def sigreg_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error, plus 0.1 times how far predictions are from draws of N(0, I).

    Deviation: the directions are the same in every step, so that the loss is a function of its arguments alone.
    """
    vectors = rows(prediction)
    directions = sigreg_directions(
        vectors.shape[1], _SLICES, generator=seeded_generator(0, vectors.shape[1], "sigreg", vectors.device)
    )
    return F.mse_loss(prediction.float(), target.float()) + _SIGREG_WEIGHT * sigreg(vectors, directions)


def _mean_error(prediction: Tensor, target: Tensor, *, kind: str) -> Tensor:
    return elementwise_error(prediction, target, kind=kind).mean()


# To add one: a function of two tensors of one shape, and a line here. `reconstruction` is `mse` of a decoder's answer.
LOSSES: Mapping[str, PairLoss] = {
    "smooth_l1": partial(_mean_error, kind="smooth_l1"),
    "mse": partial(_mean_error, kind="mse"),
    "huber": partial(_mean_error, kind="huber"),
    "cosine": cosine,
    "info_nce": info_nce,
    "vicreg": vicreg_error,
    "sigreg": sigreg_error,
    "reconstruction": partial(_mean_error, kind="mse"),
}


def explained(prediction: Tensor, target: Tensor) -> Tensor:
    """Return R2 over examples, `1 - mse / variance of the target`: 0 is as good as the mean target, 1 is perfect."""
    aim, made = target.detach().float(), prediction.detach().float()
    spread = (aim - aim.mean(dim=0, keepdim=True)).square().mean()
    return 1.0 - torch.mean((made - aim).square()) / spread.clamp(min=1e-12)

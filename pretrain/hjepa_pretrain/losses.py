"""Objectives as pure functions of tensors; all of them compute in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def level_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, *, kind: str = "smooth_l1", beta: float = 1.0
) -> Tensor:
    """Return the mean error of a level over its valid cells and all dimensions; 0 when no cell is valid.

    Args:
        prediction: `[B, T, D]`.
        target: `[B, T, D]`, normalised; no gradient flows into it.
        valid: bool `[B, T]`; what stands in other cells has no influence and gets zero gradient.
        kind: `smooth_l1` or `mse`.
        beta: where smooth-L1 turns from squared to absolute.
    """
    difference = (prediction.float() - target.detach().float()).masked_fill(~valid.unsqueeze(-1), 0.0)
    zero = torch.zeros_like(difference)
    if kind == "mse":
        error = F.mse_loss(difference, zero, reduction="sum")
    else:
        error = F.smooth_l1_loss(difference, zero, reduction="sum", beta=beta)
    return error / (valid.sum().clamp(min=1) * prediction.shape[-1])


def hierarchical_loss(
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    valid: Sequence[Tensor],
    *,
    weights: Sequence[float],
    kind: str = "smooth_l1",
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum over levels, and the unweighted loss of each level `[L]`."""
    losses = torch.stack(
        [
            level_loss(prediction, target, mask, kind=kind, beta=beta)
            for prediction, target, mask in zip(predictions, targets, valid, strict=True)
        ]
    )
    return (losses * losses.new_tensor(list(weights))).sum(), losses


def invariance(views: Tensor) -> Tensor:
    """Return the mean squared distance of the views `[V, B, P]` of an image to their mean; 0 for one view."""
    return (views - views.mean(dim=0, keepdim=True)).square().mean()


def variance_hinge(vectors: Tensor, *, target: float = 1.0) -> Tensor:
    """Return how far the standard deviation of each dimension of `[B, P]` falls short of `target`, on average.

    Source: VICReg (Bardes et al. 2022), equation 1.
    """
    deviation = (vectors.float().var(dim=0) + 1e-4).sqrt()
    return F.relu(target - deviation).mean()


def covariance_penalty(vectors: Tensor) -> Tensor:
    """Return the squared off-diagonal covariances of `[B, P]`, summed and divided by P.

    Source: VICReg (Bardes et al. 2022), equations 3 and 4.
    """
    centred = vectors.float() - vectors.float().mean(dim=0)
    covariance = centred.T @ centred / (len(centred) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return off_diagonal.square().sum() / vectors.shape[1]


def sigreg_directions(dim, slices, *, generator):
    return F.normalize(torch.randn(dim, slices, generator=generator, device=generator.device), dim=0)


def sigreg(vectors: Tensor, directions, *, knots: int = 17) -> Tensor:
    """Return how far random one-dimensional shadows of `[B, P]` are from a standard normal; about 0 for N(0, I).

    The squared difference between the empirical characteristic function of each slice and that of N(0, 1), weighted
    by exp(-t^2 / 2) and integrated over t in [-3, 3] with the trapezoid rule.

    Source: LeJEPA (Balestriero and LeCun 2025), the Epps-Pulley statistic. Deviation: without the factor N, so the
    value does not depend on the batch size; its gradient vanishes where all vectors are one: use `variance_hinge` too.
    """
    vectors = vectors.float()
    shadows = vectors @ directions
    points = torch.linspace(0.0, 3.0, knots, device=vectors.device)
    normal = torch.exp(-points.square() / 2)
    angles = shadows.unsqueeze(-1) * points
    error = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return 2.0 * torch.trapezoid(error * normal, points, dim=-1).mean()


def contrast(first: Tensor, second: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Return how hard it is to find an image's other view among all views of the batch.

    Args:
        first: `[B, P]`.
        second: `[B, P]`, row i is the other view of row i of `first`.
        temperature: divides the cosines.

    Source: SimCLR (Chen et al. 2020), the NT-Xent loss.
    """
    vectors = F.normalize(torch.cat((first, second)).float(), dim=1)
    cosines = (vectors @ vectors.T / temperature).masked_fill(
        torch.eye(len(vectors), device=vectors.device).bool(), -1e9
    )
    other = torch.arange(len(vectors), device=vectors.device).roll(len(first))
    return F.cross_entropy(cosines, other)

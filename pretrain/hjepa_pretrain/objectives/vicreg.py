"""VICReg's three terms on vectors of whole images; for callers of the library their mix, and C-JEPA, which adds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.distributed.across_ranks import gather_rows
from hjepa_pretrain.objectives.losses import hierarchical_loss

# VICReg's epsilon: keeps the square root's gradient finite where a dimension is constant.
_EPSILON = 1e-4


def invariance(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference of two views `[B, P]` of the same images, row by row.

    s = mean_id (first_id - second_id)^2; rows are never compared with rows of other images. Under several ranks the
    value of the whole batch is the mean of the ranks' values.

    Source: VICReg (Bardes et al. 2022), equation 5. Deviation: a mean over dimensions too, as in its published code,
    where the equation has their sum.
    """
    return (first.float() - second.float()).square().mean()


def variance_hinge(vectors: Tensor, *, target: float = 1.0) -> Tensor:
    """Return how far the standard deviation of each dimension of `[B, P]`, B >= 2, falls short of `target`, on average.

    v = mean_d max(0, target - sqrt(var_d + 1e-4)), with the unbiased variance over the vectors of all ranks.

    Source: VICReg (Bardes et al. 2022), equations 1 and 2. At exact collapse its gradient is finite, but zero; the
    smallest difference between vectors is enough for it to push them apart.
    """
    deviation = (gather_rows(vectors.float()).var(dim=0) + _EPSILON).sqrt()
    return F.relu(target - deviation).mean()


def covariance_penalty(vectors: Tensor) -> Tensor:
    """Return the squared off-diagonal covariances of `[B, P]`, B >= 2, summed and divided by P.

    c = (1 / P) sum_{i != j} C_ij^2, with C the unbiased covariance matrix over the vectors of all ranks. It is zero for
    constant vectors: alone it does not prevent collapse.

    Source: VICReg (Bardes et al. 2022), equations 3 and 4.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        everyone = gather_rows(vectors.float())
        centred = everyone - everyone.mean(dim=0)
        covariance = centred.T @ centred / (len(centred) - 1)
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        return off_diagonal.square().sum() / vectors.shape[1]


def vicreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Tensor:
    """Return the VICReg loss of two views `[B, P]` of the same images, B >= 2.

    invariance_weight * s(z, z') + variance_weight * (v(z) + v(z')) / 2 + covariance_weight * (c(z) + c(z'))

    with `invariance`, `variance_hinge` and `covariance_penalty`.

    Source: VICReg (Bardes et al. 2022), equation 6, with the paper's weights. Deviation: as its published code does,
    the variances are averaged over the views where the equation adds them; the covariances are added in both.
    """
    spread = (variance_hinge(first) + variance_hinge(second)) / 2
    decorrelation = covariance_penalty(first) + covariance_penalty(second)
    return invariance_weight * invariance(first, second) + variance_weight * spread + covariance_weight * decorrelation


def c_jepa(
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    valid: Sequence[Tensor],
    *,
    first: Tensor,
    second: Tensor,
    weights: Sequence[float],
    vicreg_weight: float = 0.001,
    kind: str = "smooth_l1",
    beta: float = 1.0,
) -> Tensor:
    """Return C-JEPA's loss: the prediction of levels, plus `vicreg_weight` times `vicreg` of two views' means.

    Args:
        predictions: `[B, T_l, D]` per level.
        targets: `[B, T_l, D]` per level, normalised, no gradient.
        valid: bool `[B, T_l]` per level.
        first: `[B, P]`, mean context token of one view.
        second: `[B, P]`, mean context token of another view of the same images.
        weights: of the levels.
        vicreg_weight: C-JEPA's weight of the VICReg loss.
        kind: error of the levels, see `elementwise_error`.
        beta: where smooth_l1 and huber turn from squared to absolute.

    Source: C-JEPA (Mo and Tong 2024). Its weights 0.001 and 25, 25, 1 are quoted from others' accounts of the paper,
    which agree; its code was not read. Deviation: more than one level. In `train.whole_image` the same weights are
    invariance 0.025, variance 0.025 and covariance 0.002 (a mean over views there, a sum over two here), where a
    projector stands between the mean tokens and the terms.
    """
    levels, _ = hierarchical_loss(predictions, targets, valid, weights=weights, kind=kind, beta=beta)
    return levels + vicreg_weight * vicreg(first, second)

"""Errors between predictions and targets, level by level, as pure functions of tensors; all of them compute in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.errors import unknown
from hjepa_pretrain.distributed.across_ranks import gather_rows, mean_over_ranks

KINDS = ("smooth_l1", "mse", "huber")

# Far below the cost of any spread worth having, far above fp32's rounding; VICReg uses the same number for variances.
_FLOOR = 1e-4


def elementwise_error(prediction: Tensor, target: Tensor, *, kind: str = "smooth_l1", beta: float = 1.0) -> Tensor:
    """Return the error of every element, in fp32, in the shape of `prediction`.

    With e = prediction - target: `mse` is e^2; `smooth_l1` is e^2 / (2 beta) where |e| < beta, else |e| - beta / 2;
    `huber` is beta times smooth_l1, so e^2 / 2 near 0 whatever beta is (torch calls this beta `delta`).

    Raises:
        UnknownNameError: there is no such kind.
    """
    prediction, target = prediction.float(), target.float()
    if kind == "mse":
        return (prediction - target).square()
    if kind == "smooth_l1":
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=beta)
    if kind == "huber":
        return F.huber_loss(prediction, target, reduction="none", delta=beta)
    raise unknown("loss", kind, KINDS)


def _sum_of_errors(prediction: Tensor, target: Tensor, valid: Tensor, *, kind: str, beta: float) -> Tensor:
    """Return the error summed over valid cells and averaged over dimensions."""
    difference = (prediction.float() - target.detach().float()).masked_fill(~valid.unsqueeze(-1), 0.0)
    return elementwise_error(difference, torch.zeros_like(difference), kind=kind, beta=beta).mean(dim=-1).sum()


def level_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, *, kind: str = "smooth_l1", beta: float = 1.0
) -> Tensor:
    """Return the mean error of a level over its valid cells and all dimensions; 0 when no cell is valid.

    Args:
        prediction: `[B, T, D]`.
        target: `[B, T, D]`, normalised; no gradient flows into it.
        valid: bool `[B, T]`; what stands in other cells has no influence and gets zero gradient.
        kind: `smooth_l1`, `mse` or `huber`, see `elementwise_error`.
        beta: where smooth_l1 and huber turn from squared to absolute.

    Under several ranks the sum is divided by the ranks' mean number of valid cells, so that every valid cell of the
    whole batch weighs the same; the value of the whole batch is the mean of the ranks' values.

    Source: I-JEPA (Assran et al. 2023): its code minimises smooth-L1 on layer-normalised targets; its paper writes a
    squared error. Deviation: cells are averaged over the batch, not over blocks first.

    Raises:
        UnknownNameError: there is no such kind.
    """
    return hierarchical_loss([prediction], [target], [valid], weights=(1.0,), kind=kind, beta=beta)[0]


def hierarchical_loss(
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    valid: Sequence[Tensor],
    *,
    weights: Sequence[float],
    kind: str = "smooth_l1",
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return sum_l weights[l] * level_loss[l] for at least one level, and the unweighted losses `[L]`.

    Arguments as in `level_loss`, a list item per level. One message between ranks serves all levels.
    """
    cells = mean_over_ranks(torch.stack([mask.sum() for mask in valid]).float())
    errors = [
        _sum_of_errors(prediction, target, mask, kind=kind, beta=beta)
        for prediction, target, mask in zip(predictions, targets, valid, strict=True)
    ]
    losses = torch.stack(errors) / cells.clamp(min=1e-6)  # A rank's share of one valid cell is less than 1.
    weighted = [weight * loss for weight, loss in zip(weights, losses.unbind(), strict=True)]
    return torch.stack(weighted).sum(), losses


def explained_variance(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return R2 = 1 - mse(prediction, target) / var(target) over valid cells; 1 is perfect, 0 is as good as the mean.

    The mean squared error over valid cells and dimensions, and the biased variance over valid cells, averaged over
    dimensions; always of squared errors, whatever loss is minimised. 0 when no cell is valid. A detached scalar, of
    this rank's cells alone.

    Args:
        prediction: `[B, T, D]`.
        target: `[B, T, D]`.
        valid: bool `[B, T]`.
    """
    hidden = ~valid.unsqueeze(-1)
    aim = target.detach().float().masked_fill(hidden, 0.0)
    error = (prediction.detach().float() - aim).masked_fill(hidden, 0.0)
    mean = aim.sum(dim=(0, 1)) / valid.sum().clamp(min=1)
    spread = (aim - mean).masked_fill(hidden, 0.0)
    tiny = 1e-6
    return 1.0 - (error.square().sum() + tiny) / (spread.square().sum() + tiny)


def cycle_consistency(original: Tensor, returned: Tensor, *, beta: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Return what is lost when a representation is carried away and back, as a share of what there was to lose.

    Per dimension d, with h the Huber error, means over all valid vectors i, and m_d the mean of `original`:

        loss = mean_d (mean_i h(returned_id, original_id) + 1e-4) / (mean_i h(m_d, original_id) + 1e-4)

    About 0 is a perfect return; 1 is no better than always returning the mean. Document 002
    asks for it; `SaccadeJEPA` minimises it.

    Why a ratio: the plain error rewards collapse, since a constant returns to itself at no cost, and any shrinking
    lowers it. Here gradient flows into the denominator too, so that shrinking both gains nothing, a dimension without
    spread costs 1, as much as knowing nothing, and the cost is lowest where there is spread to carry. What it does not
    do: at exact collapse the gradient is zero (finite, but no way out), and dimensions that repeat each other cost as
    little as independent ones. So add the variance and covariance terms of `vicreg`, as saccade models do.

    Args:
        original: `[..., D]`; gradient flows into it.
        returned: `[..., D]`, after the movement and its inverse.
        beta: where Huber turns from squared to absolute.
        valid: bool `[...]`, all when absent; other vectors have no influence and get zero gradient.

    Under several ranks the statistics are those of all ranks. When no vector is valid the value is 1, without gradient.

    Source: the cycle idea is CycleGAN's (Zhu et al. 2017, equation 2, with an absolute error). Deviation: Huber, in
    representation space, divided by the error of the mean.
    """
    dim = original.shape[-1]
    keep = torch.ones_like(original[..., 0], dtype=torch.bool) if valid is None else valid
    hidden = ~keep.reshape(-1, 1)
    start = gather_rows(original.float().reshape(-1, dim).masked_fill(hidden, 0.0))
    end = gather_rows(returned.float().reshape(-1, dim).masked_fill(hidden, 0.0))
    weight = gather_rows((~hidden).float())
    weight = weight / weight.sum().clamp(min=1)
    mean = (weight * start).sum(dim=0)
    lost = (weight * elementwise_error(end, start, kind="huber", beta=beta)).sum(dim=0)
    to_lose = (weight * elementwise_error(mean.expand_as(start), start, kind="huber", beta=beta)).sum(dim=0)
    return ((lost + _FLOOR) / (to_lose + _FLOOR)).mean()

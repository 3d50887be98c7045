"""From a step's outputs to one loss, and to the named terms that are logged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hjepa_pretrain.config.settings import GlobalSettings, TrainSettings
from hjepa_pretrain.objectives.contrast import contrast
from hjepa_pretrain.objectives.losses import explained_variance, hierarchical_loss, level_loss
from hjepa_pretrain.objectives.sigreg import sigreg
from hjepa_pretrain.objectives.vicreg import vicreg_terms


def training_loss(
    outputs: dict[str, Any], settings: TrainSettings, *, directions: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise, and what is logged, detached.

    Logged are `loss`; `level_0`, ... and `r2_0`, ... when levels are predicted; and, of those with a weight, `global`,
    `invariance`, `contrast`, `variance`, `covariance`, `sigreg`: each without its weight. Nothing here waits for the
    device or breaks a compiled graph. Under several ranks see `across_ranks`: averaged gradients are those of one
    process, and averaged terms are its terms (but for `r2_*`).

    Args:
        outputs: of the model: `predictions`, `targets`, `valid` (lists, empty when no level is predicted);
            `projections` `[V, B, P]` when there is a projector; `global_prediction` and `global_target` `[B, D]`, the
            latter normalised and without gradient, when `predict` has a weight.
        settings: weights and kinds.
        directions: `[P, S]` of `sigreg_directions`, new in every step; needed when sigreg has a weight.

    Raises:
        ValueError: `directions`, a second view or a global prediction is missing for a term with a weight.
    """
    parts: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    if outputs["predictions"]:
        weighted, terms = _levels(outputs, settings)
        parts.append(weighted)
    whole = settings.whole_image
    if whole.predict:
        if "global_prediction" not in outputs:
            raise ValueError("predict needs a global prediction")
        prediction, target = (outputs[name].unsqueeze(1) for name in ("global_prediction", "global_target"))
        valid = torch.ones(prediction.shape[:2], dtype=torch.bool, device=prediction.device)
        terms["global"] = level_loss(prediction, target, valid, kind=settings.loss, beta=settings.loss_beta)
        parts.append(whole.predict * terms["global"])
    if whole.projected:
        weighted, more = whole_image_loss(outputs["projections"], whole, directions=directions)
        terms |= more
        parts.append(weighted)
    total = torch.stack(parts).sum()
    return total, {name: term.detach() for name, term in {"loss": total, **terms}.items()}


def _levels(outputs: dict[str, Any], settings: TrainSettings) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum over levels, and each level's loss and R2."""
    cells = (outputs["predictions"], outputs["targets"], outputs["valid"])
    weights = settings.level_weights or (1.0,) * len(outputs["predictions"])
    total, losses = hierarchical_loss(*cells, weights=weights, kind=settings.loss, beta=settings.loss_beta)
    terms = {f"level_{level}": loss for level, loss in enumerate(losses.unbind())}
    terms |= {f"r2_{level}": explained_variance(*each) for level, each in enumerate(zip(*cells, strict=True))}
    return total, terms


def view_pairs(count: int) -> list[tuple[int, int]]:
    """Return the pairs i < j of `count` views that contain one of the first two: local views are never compared.

    Source: DINO (Caron et al. 2021), multi-crop. Deviation: gradient flows into both views of a pair.
    """
    return [(i, j) for i in range(min(2, count)) for j in range(i + 1, count)]


def whole_image_loss(
    projections: Tensor, settings: GlobalSettings, *, directions: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the terms on projections `[V, B, P]`, and each term that has a weight.

    The first two views are whole (global) ones, the others small local crops. Invariance and contrast are means over
    `view_pairs`; variance, covariance and sigreg are means over all V views, each view a batch of its own.
    With train.accumulate, so is each part of a batch: statistics know the parts of all ranks, but no earlier part.

    Raises:
        ValueError: `directions` is missing for sigreg, or a second view for invariance or contrast.
    """
    views = list(projections.unbind())
    pairs = view_pairs(len(views))
    if (settings.invariance or settings.contrast) and not pairs:
        raise ValueError("invariance and contrast compare two views, and there is one")
    weights = {
        "invariance": settings.invariance,
        "variance": settings.variance,
        "covariance": settings.covariance,
        "contrast": settings.contrast,
        "sigreg": settings.sigreg,
    }
    terms = vicreg_terms(views, pairs, weights=weights)
    if settings.contrast:
        values = [contrast(views[i], views[j], temperature=settings.temperature) for i, j in pairs]
        terms["contrast"] = _mean(values)
    if settings.sigreg:
        if directions is None:
            raise ValueError("sigreg needs directions")
        terms["sigreg"] = _mean([sigreg(view, directions) for view in views])
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()

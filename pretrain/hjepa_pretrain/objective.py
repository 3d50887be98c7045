"""From a step's outputs to one loss, and to the named terms that are logged."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain import losses
from hjepa_pretrain.config import GlobalSettings, TrainSettings


def training_loss(
    outputs: dict[str, Any], settings: TrainSettings, *, directions: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise, and its terms without weights, detached: `loss`, `level_0`, ..., `invariance`, ...

    Args:
        outputs: of `HJEPA.forward`.
        settings: weights and kinds.
        step: seeds the random directions of sigreg.
    """
    weights = settings.level_weights or (1.0,) * len(outputs["predictions"])
    total, per_level = losses.hierarchical_loss(
        outputs["predictions"],
        outputs["targets"],
        outputs["valid"],
        weights=weights,
        kind=settings.loss,
        beta=settings.loss_beta,
    )
    terms = {f"level_{level}": loss for level, loss in enumerate(per_level)}
    if "projections" in outputs:
        weighted, more = whole_image_loss(outputs["projections"], settings.whole_image, directions)
        total = total + weighted
        terms |= more
    return total, {name: term.detach() for name, term in {"loss": total, **terms}.items()}


def whole_image_loss(projections: Tensor, settings: GlobalSettings, directions) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the terms on projections `[V, B, P]`, and each term that has a weight."""
    views = list(projections)
    terms: dict[str, tuple[float, Tensor]] = {}
    if settings.invariance:
        terms["invariance"] = (settings.invariance, losses.invariance(projections))
    if settings.contrast:
        contrast = losses.contrast(projections[0], projections[1], temperature=settings.temperature)
        terms["contrast"] = (settings.contrast, contrast)
    if settings.variance:
        terms["variance"] = (settings.variance, _mean([losses.variance_hinge(view) for view in views]))
    if settings.covariance:
        terms["covariance"] = (settings.covariance, _mean([losses.covariance_penalty(view) for view in views]))
    if settings.sigreg:
        values = [losses.sigreg(view, directions) for view in views]
        terms["sigreg"] = (settings.sigreg, _mean(values))
    total = projections.new_zeros(())
    for weight, term in terms.values():
        total = total + weight * term
    return total, {name: term for name, (_, term) in terms.items()}


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], start=values[0]) / len(values)

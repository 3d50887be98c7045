"""From a step's outputs to one loss and the terms that are logged; the objectives on whole images are a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.config.settings import GlobalSettings, TrainSettings
from hjepa_pretrain.objectives.coding_rate import coding_rate, distance_to_centre
from hjepa_pretrain.objectives.contrast import contrast
from hjepa_pretrain.objectives.losses import explained_variance, hierarchical_loss, level_loss
from hjepa_pretrain.objectives.sigreg import sigreg
from hjepa_pretrain.objectives.vicreg import covariance_penalty, invariance, variance_hinge


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
    terms |= {f"r2_{level}": explained_variance(*part) for level, part in enumerate(zip(*cells, strict=True))}
    return total, terms


def view_pairs(count: int) -> list[tuple[int, int]]:
    """Return the pairs i < j of `count` views that contain one of the first two: local views are never compared.

    Source: DINO (Caron et al. 2021), multi-crop. Deviation: gradient flows into both views of a pair.
    """
    return [(i, j) for i in range(min(2, count)) for j in range(i + 1, count)]


class Projections(NamedTuple):
    """What objectives on whole images look at.

    Attributes:
        views: `[B, P]` of each view; the first two are whole (global) ones, the others small local crops.
        pairs: numbers of the views that are compared, see `view_pairs`.
        settings: weights, temperature and the like.
        directions: `[P, S]` of `sigreg_directions`, or None.
    """

    views: list[Tensor]
    pairs: list[tuple[int, int]]
    settings: GlobalSettings
    directions: Tensor | None


@dataclass(frozen=True)
class Objective:
    """A term on the projections of whole images. The field of `train.whole_image` with its name is its weight.

    Attributes:
        name: of the term in logs, and of its weight.
        term: what is minimised, without the weight.
        needs: `pairs` of views, `directions`, or neither.
    """

    name: str
    term: Callable[[Projections], Tensor]
    needs: frozenset[Literal["pairs", "directions"]] = frozenset()

    def weight(self, settings: GlobalSettings) -> float:
        """Return what the term counts; 0 leaves it out."""
        return float(getattr(settings, self.name))

    def __call__(self, projections: Projections) -> Tensor:
        """Return the term, a scalar.

        Raises:
            ValueError: there is no second view, or there are no directions, where the term needs them.
        """
        if "pairs" in self.needs and not projections.pairs:
            raise ValueError(f"{self.name} compares two views, and there is one")
        if "directions" in self.needs and projections.directions is None:
            raise ValueError(f"{self.name} needs directions")
        return self.term(projections)


def _of_pairs(function: Callable[[Tensor, Tensor], Tensor], seen: Projections) -> Tensor:
    return torch.stack([function(seen.views[i], seen.views[j]) for i, j in seen.pairs]).mean()


def _of_views(function: Callable[[Tensor], Tensor], seen: Projections) -> Tensor:
    return torch.stack([function(view) for view in seen.views]).mean()


def _contrast(seen: Projections) -> Tensor:
    return _of_pairs(partial(contrast, temperature=seen.settings.temperature), seen)


def _sigreg(seen: Projections) -> Tensor:
    directions = seen.directions
    assert directions is not None  # `Objective` has looked.
    return _of_views(lambda view: sigreg(view, directions), seen)


def _coding_rate(seen: Projections) -> Tensor:
    return _of_views(partial(coding_rate, precision=seen.settings.coding_precision), seen)


# To add one: a file with the function, a line here, and its weight in `config.settings.GlobalSettings`.
OBJECTIVES = (
    Objective("invariance", partial(_of_pairs, invariance), frozenset({"pairs"})),
    Objective("variance", partial(_of_views, variance_hinge)),
    Objective("covariance", partial(_of_views, covariance_penalty)),
    Objective("contrast", _contrast, frozenset({"pairs"})),
    Objective("sigreg", _sigreg, frozenset({"directions"})),
    Objective("centre", lambda seen: distance_to_centre(seen.views), frozenset({"pairs"})),
    Objective("coding_rate", _coding_rate),
)


def active_objectives(settings: GlobalSettings) -> list[Objective]:
    """Return the objectives on projections that have a weight."""
    return [objective for objective in OBJECTIVES if objective.weight(settings)]


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
    seen = Projections(views, view_pairs(len(views)), settings, directions)
    active = active_objectives(settings)
    terms = {objective.name: objective(seen) for objective in active}
    weighted = [objective.weight(settings) * terms[objective.name] for objective in active]
    return torch.stack(weighted).sum(), terms


def crops_loss(
    outputs: dict[str, Any], settings: GlobalSettings, *, directions: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise for small crops of images, and what is logged, detached: means over levels.

    Args:
        outputs: of `HJEPA.see_crops`: `projections` and `answers` `[V, B, P]` of each level.
        settings: weights and kinds.
        directions: as for `training_loss`.
    """
    losses, terms = zip(
        *(whole_image_loss(level, settings, directions=directions) for level in outputs["projections"]), strict=True
    )
    logged = {name: torch.stack([level[name] for level in terms]).mean() for name in terms[0]}
    total = torch.stack(losses).mean()
    if settings.predict_crops:
        levels = zip(outputs["answers"], outputs["projections"], strict=True)
        logged["predict_crops"] = torch.stack([_distance_to_next(*level) for level in levels]).mean()
        total = total + settings.predict_crops * logged["predict_crops"]
    return total, {name: term.detach() for name, term in {"loss": total, **logged}.items()}


def _distance_to_next(answers: Tensor, projections: Tensor) -> Tensor:
    """Return 1 minus the cosine of what each crop says of the next one, `[V, B, P]`, and what that one is, on average.

    Gradient flows into both.
    """
    return 1.0 - F.cosine_similarity(answers, projections.roll(-1, dims=0), dim=-1, eps=1e-6).mean()

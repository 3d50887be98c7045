from __future__ import annotations

from typing import Any

import pytest
import torch
from hjepa_pretrain.config.settings import PROJECTED, TrainSettings
from hjepa_pretrain.objectives.contrast import contrast
from hjepa_pretrain.objectives.losses import level_loss
from hjepa_pretrain.objectives.objective import OBJECTIVES, training_loss, view_pairs
from hjepa_pretrain.objectives.sigreg import sigreg, sigreg_directions
from hjepa_pretrain.objectives.vicreg import c_jepa, covariance_penalty, invariance, variance_hinge
from torch import Tensor

WEIGHTS = {"invariance": 1.5, "contrast": 0.5, "predict": 2.0, "variance": 0.7, "covariance": 0.3, "sigreg": 5.0}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directions() -> Tensor:
    return sigreg_directions(8, 32, generator=torch.Generator().manual_seed(1))


def outputs(views: int = 2, *, predicted: bool = True) -> dict[str, Any]:
    """What a model returns for 6 images, two levels, and one query of the other view's mean token."""
    shapes = [(6, 5, 4), (6, 2, 4)] if predicted else []
    return {
        "predictions": [noise(*shape, seed=level).requires_grad_() for level, shape in enumerate(shapes)],
        "targets": [noise(*shape, seed=10 + level) for level, shape in enumerate(shapes)],
        "valid": [noise(*shape[:2], seed=20 + level) > -1 for level, shape in enumerate(shapes)],
        "projections": noise(views, 6, 8, seed=30).requires_grad_(),
        "global_prediction": noise(6, 4, seed=40).requires_grad_(),
        "global_target": noise(6, 4, seed=50),
    }


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"level_weights": [1.0, 0.5], "whole_image": WEIGHTS, **changes})


def test_training_loss__is_the_weighted_sum_of_its_terms_and_names_them() -> None:
    made = outputs()
    loss, terms = training_loss(made, settings(), directions=directions())
    assert set(terms) == {"loss", "level_0", "level_1", "r2_0", "r2_1", "global"} | (set(WEIGHTS) - {"predict"})
    weights = {**WEIGHTS, "global": 2.0, "level_0": 1.0, "level_1": 0.5}
    expected = sum(weights[name] * term for name, term in terms.items() if name != "loss" and name[:2] != "r2")
    assert loss.item() == terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert not any(term.requires_grad for term in terms.values())
    loss.backward()
    for name in ("projections", "global_prediction"):
        assert (made[name].grad != 0).any()


def test_training_loss__terms_are_those_of_the_pure_functions() -> None:
    made = outputs()
    _, terms = training_loss(made, settings(loss="huber", loss_beta=0.5), directions=directions())
    first, second = made["projections"]
    everywhere = torch.ones(6, 1, dtype=torch.bool)
    whole = (made["global_prediction"].unsqueeze(1), made["global_target"].unsqueeze(1), everywhere)
    cells = (made["predictions"][0], made["targets"][0], made["valid"][0])
    expected = {
        "level_0": level_loss(*cells, kind="huber", beta=0.5),
        "global": level_loss(*whole, kind="huber", beta=0.5),
        "invariance": invariance(first, second),
        "contrast": contrast(first, second),
        "variance": (variance_hinge(first) + variance_hinge(second)) / 2,
        "covariance": (covariance_penalty(first) + covariance_penalty(second)) / 2,
        "sigreg": (sigreg(first, directions()) + sigreg(second, directions())) / 2,
    }
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_training_loss__without_predictions_is_the_whole_image_terms_alone() -> None:
    made = outputs(predicted=False)
    loss, terms = training_loss(made, settings(whole_image={"contrast": 0.5}))
    assert set(terms) == {"loss", "contrast"}
    assert loss.item() == pytest.approx(0.5 * contrast(*made["projections"]).item())


def test_training_loss__without_whole_image_terms_is_the_levels_alone() -> None:
    made = outputs()
    loss, terms = training_loss(made, settings(whole_image={}, level_weights=None))
    assert set(terms) == {"loss", "level_0", "level_1", "r2_0", "r2_1"}
    assert loss.item() == pytest.approx((terms["level_0"] + terms["level_1"]).item())


def test_objectives__are_one_list_whose_weights_are_the_marked_settings() -> None:
    of_crops = {"centre", "coding_rate"}  # They have tests of their own.
    assert {objective.name for objective in OBJECTIVES} == set(PROJECTED) == set(WEIGHTS) - {"predict"} | of_crops


def test_view_pairs__local_views_meet_whole_ones_alone() -> None:
    assert view_pairs(1) == []
    assert view_pairs(2) == [(0, 1)]
    assert view_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]


@pytest.mark.rows("F")
def test_training_loss__multi_crop_means_over_pairs_with_a_whole_view() -> None:
    made = outputs(views=4, predicted=False)
    whole = {"invariance": 1.0, "contrast": 1.0, "variance": 1.0}
    _, terms = training_loss(made, settings(whole_image=whole))
    views = made["projections"]
    pairs = [(views[i], views[j]) for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))]
    expected = sum(invariance(*pair).item() for pair in pairs) / 5
    assert terms["invariance"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["contrast"].item() == pytest.approx(sum(contrast(*pair).item() for pair in pairs) / 5, rel=1e-5)
    assert terms["variance"].item() == pytest.approx(sum(variance_hinge(view).item() for view in views) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("views", "whole", "message"),
    [(2, {"sigreg": 1.0}, "directions"), (1, {"contrast": 1.0}, "two views"), (1, {"invariance": 1.0}, "two views")],
)
def test_training_loss__what_a_term_needs_must_be_there(views: int, whole: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_loss(outputs(views), settings(whole_image=whole))


def test_training_loss__a_global_prediction_with_a_weight_must_be_there() -> None:
    made = outputs()
    del made["global_prediction"]
    with pytest.raises(ValueError, match="global prediction"):
        training_loss(made, settings(whole_image={"predict": 1.0}))


def test_c_jepa_weights__make_the_whole_image_terms_those_of_c_jepa() -> None:
    made = outputs()
    weights = {"invariance": 0.025, "variance": 0.025, "covariance": 0.002}
    loss, _ = training_loss(made, settings(whole_image=weights))
    first, second = made["projections"]
    cells = (made["predictions"], made["targets"], made["valid"])
    expected = c_jepa(*cells, first=first, second=second, weights=(1.0, 0.5))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_training_loss__the_order_of_the_batch_changes_nothing() -> None:
    made = outputs(views=3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {
        name: [level[order] for level in value] if isinstance(value, list) else value[order]
        for name, value in made.items()
        if name != "projections"
    }
    moved["projections"] = made["projections"][:, order]
    _, terms = training_loss(made, settings(), directions=directions())
    _, after = training_loss(moved, settings(), directions=directions())
    for name, term in terms.items():
        assert after[name].item() == pytest.approx(term.item(), rel=1e-4), name


def test_training_loss__a_collapsed_model_costs_more_than_a_spread_one_and_has_a_finite_gradient() -> None:
    """Predictions are right in both: a JEPA's own loss is blind to collapse."""
    costs = []
    for vectors in (noise(64, 8), torch.full((64, 8), 0.3)):
        vectors = vectors.clone().requires_grad_()
        level, valid = vectors.unsqueeze(1), torch.ones(64, 1, dtype=torch.bool)
        made = {
            "predictions": [level, level],
            "targets": [level.detach(), level.detach()],
            "valid": [valid, valid],
            "projections": torch.stack((vectors, vectors)),
            "global_prediction": vectors,
            "global_target": vectors.detach(),
        }
        loss, terms = training_loss(made, settings(), directions=directions())
        loss.backward()
        assert terms["level_0"].item() == 0
        assert vectors.grad.isfinite().all()
        costs.append(loss.item())
    assert costs[1] > 2 * costs[0]


@pytest.mark.parametrize("views", [2, 3])
def test_training_loss__compiles_into_one_graph(views: int) -> None:
    chosen, slices = settings(), directions()

    def step(made: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return training_loss(made, chosen, directions=slices)

    made, again = outputs(views), outputs(views)
    torch._dynamo.reset()
    loss, terms = step(made)
    compiled, named = torch.compile(step, fullgraph=True, backend="eager")(again)
    assert compiled.item() == pytest.approx(loss.item(), rel=1e-6)
    assert list(named) == list(terms)
    loss.backward()
    compiled.backward()
    torch.testing.assert_close(again["projections"].grad, made["projections"].grad)

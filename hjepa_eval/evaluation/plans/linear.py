"""The linear probe: a linear classifier at every level, under a named protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from hjepa_eval.config import Settings
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import (
    Folder,
    Readouts,
    Strengths,
    option,
    superclasses_option,
    views_option,
)
from hjepa_eval.results.headings import HEADINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.probes.linear.linear import LinearResult
    from hjepa_eval.probes.linear.protocols import LinearProtocol
    from hjepa_eval.probes.linear.ridge import RidgeResult
    from hjepa_eval.probes.linear.sgd_probe import SgdResult

_RULES = {
    "logistic": "a stratified tenth of train, after a fit to the rest",
    "sgd": "a stratified tenth of train, after training on the rest",
    "ridge": "leave-one-out accuracy on train",
}


class LinearSettings(Settings):
    """A linear classifier on frozen features."""

    linear_protocol: str = option(
        "logreg",
        "logreg, clip-logreg, dinov2-logreg, ridge, dinov2-linear-cached, mae-linprobe-cached, ijepa-linear-cached",
        group=GROUP,
        alias="protocol",
    )
    readouts: Readouts = option(
        (), "further readouts, such as cls,max: the best on the held-out part of train is taken", group=GROUP
    )
    views: int = views_option()
    c: Strengths | None = option(
        None, "inverse regularisation strengths for logreg, repeatable; its own grid when not given", group=GROUP
    )
    superclasses: Folder | None = superclasses_option()


Found: TypeAlias = "LinearResult | RidgeResult | SgdResult"


def _fit_best(
    row: LevelRow, seed: int, protocol: LinearProtocol, settings: LinearSettings
) -> tuple[Found, dict[str, Any], float | None]:
    """Return the fit of the readout that does best on train samples held out, what was chosen, and its score there."""
    found = {name: _fit(each, seed, protocol, settings) for name, each in row.readouts().items()}
    chosen = {name: _chosen(each) for name, each in found.items()}
    if len(found) == 1:
        name = next(iter(found))
        return found[name], *chosen[name]
    scores = {name: score for name, (_, score) in chosen.items()}
    best = max(scores, key=lambda name: scores[name] or 0.0)  # Of equal ones the first that was named.
    about = {"readout": best, "readouts_held_out": scores, "readouts_tied": _tied_readouts(found, best)}
    return found[best], {**about, **chosen[best][0]}, scores[best]


def _choice_note(chosen: Mapping[str, Any]) -> list[str]:
    """Return the sentence about a readout that was chosen among others which held-out images do not tell from it."""
    tied = chosen.get("readouts_tied")
    if not tied:
        return []
    return [f"the readout {chosen['readout']} is chosen; held-out images do not tell it from {', '.join(tied)}"]


def _tied_readouts(found: Mapping[str, Found], best: str) -> list[str]:
    """Return the readouts that a paired test on held-out train images does not tell from the chosen one."""
    from hjepa_eval.metrics.paired import tied_levels

    names = list(found)
    right = {place: _held_out_right(found[name]) for place, name in enumerate(names)}
    outcomes = {place: array for place, array in right.items() if array is not None}
    if len(outcomes) < len(names):
        return []
    return [names[place] for place in tied_levels(outcomes, names.index(best))]


def _fit(row: LevelRow, seed: int, protocol: LinearProtocol, settings: LinearSettings) -> Found:
    from hjepa_eval.probes.linear.linear import logistic_regression
    from hjepa_eval.probes.linear.ridge import ridge_regression
    from hjepa_eval.probes.linear.sgd_probe import sgd_probe

    train, test = row.stream("train"), row.samples("test")
    common: dict[str, Any] = {"num_classes": len(row.class_names), "class_names": row.class_names}
    common["device"] = row.features.device
    if protocol.solver == "ridge":
        return ridge_regression(train, test, **common)
    if protocol.solver == "sgd":
        return sgd_probe(
            row.samples("train"), test, protocol=protocol, train_views=row.train_views() or None, seed=seed, **common
        )
    cs = settings.c if settings.c is not None else protocol.cs
    return logistic_regression(train, test, cs=cs, search=protocol.search, seed=seed, **common)


def _chosen(found: Found) -> tuple[dict[str, Any], float | None]:
    """Return what was chosen, with all that was tried, and the held-out score of the choice."""
    from hjepa_eval.probes.linear.ridge import RidgeResult
    from hjepa_eval.probes.linear.sgd_probe import SgdResult

    if isinstance(found, RidgeResult):
        tried = {f"{penalty:g}": value for penalty, value in found.val_scores.items()}
        about = {"penalty": found.penalty, "left_out_accuracy": tried, "tied": _tied(tried, f"{found.penalty:g}")}
        return about, found.val_scores[found.penalty]
    if isinstance(found, SgdResult):
        return {**found.chosen, "held_out_accuracy": found.val_scores}, found.val_score
    tried = {f"{c:g}": value for c, value in found.val_scores.items()}
    about = {"C": found.c, "held_out_accuracy": tried, "tied": _tied(tried, f"{found.c:g}")}
    return {**about, "iterations": found.iterations, "gap": found.gap}, found.val_score


def _tied(tried: Mapping[str, float], chosen: str) -> list[str]:
    """Return the other values that did just as well on held-out images: what is chosen of them is a rule's choice."""
    return [value for value, score in tried.items() if value != chosen and score == tried.get(chosen)]


def _held_out_right(found: Found) -> NDArray[np.bool_] | None:
    """Return whether each train sample that was held out was classified right; None where none was."""
    import numpy as np

    from hjepa_eval.probes.linear.ridge import RidgeResult

    if isinstance(found, RidgeResult):
        return found.left_out_right
    if found.val_logits is None or found.val_labels is None:
        return None
    return np.asarray(found.val_logits.argmax(axis=1) == found.val_labels)


def _calibration(found: Found, labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the expected calibration error on test before and after a temperature fitted on held-out train images."""
    from hjepa_eval.metrics.calibration import expected_calibration_error, fit_temperature, softmax
    from hjepa_eval.probes.linear.ridge import RidgeResult

    if isinstance(found, RidgeResult) or found.val_logits is None or found.val_labels is None:
        return {}  # Ridge has no probabilities; without held-out images no temperature can be fitted honestly.
    temperature = fit_temperature(found.val_logits, found.val_labels)
    return {
        "ece": expected_calibration_error(softmax(found.logits), labels),
        "ece_scaled": expected_calibration_error(softmax(found.logits, temperature), labels),
        "temperature": temperature,
    }


def plan_linear(settings: LinearSettings) -> Plan:
    """Return the linear probe as the settings ask for it.

    Raises:
        ConfigError: C or views are given to a protocol that has no use for them.
        UnknownNameError: there is no such protocol.
    """
    from hjepa_eval.evaluation.rows import superclass_name
    from hjepa_eval.probes.linear.protocols import linear_protocol

    protocol = linear_protocol(settings.linear_protocol)
    if settings.c is not None and protocol.name != "logreg":
        raise ConfigError(f"--c is for the protocol logreg; {protocol.name} has its own choice, leave --c out")
    if settings.readouts and settings.c is not None and len(settings.c) == 1:
        raise ConfigError("one C leaves nothing to hold out, so no readout can be chosen; give several, or one readout")
    if settings.views and protocol.solver != "sgd":
        trained = "dinov2-linear-cached, mae-linprobe-cached or ijepa-linear-cached"
        raise ConfigError(f"--views is for protocols that train by SGD; {protocol.name} does not, take {trained}")
    return Plan(
        protocol=protocol.name,
        parameters={
            "c": None if settings.c is None else list(settings.c),
            "views": settings.views,
            "readouts": list(settings.readouts),
            "superclasses": superclass_name(settings.superclasses),
        },
        run=lambda row, seed, choosing: _run(row, seed, protocol=protocol, settings=settings),
        deviations=protocol.deviations,
        rule=_RULES[protocol.solver],
        together=True,
        version=protocol.version,
        readouts=settings.readouts,
        views=settings.views,
    )


def _run(row: LevelRow, seed: int, *, protocol: LinearProtocol, settings: LinearSettings) -> Finding:
    """Return what a linear classifier says of one level."""
    from hjepa_eval.evaluation.findings import Finding, make_score, superclass_finding

    fit, chosen, held_out = _fit_best(row, seed, protocol, settings)
    labels = row.stream("test").labels
    scores = [make_score("top1", fit.score, headline=True), make_score("top5", fit.top5)]
    outcomes = {"top1": fit.predictions == labels}
    superclass = row.superclass(settings.superclasses)
    if superclass is not None:
        score, right = superclass_finding(fit.predictions, labels, superclass)
        scores.append(score)
        outcomes[score.key] = right
    right_held = _held_out_right(fit)
    return Finding(
        scores=tuple(scores),
        outcomes=outcomes,
        predictions={"top1": fit.predictions},
        held_out={} if held_out is None else {"top1": held_out},
        held_out_outcomes={} if right_held is None else {"top1": right_held},
        chosen=chosen,
        calibration=_calibration(fit, labels),
        notes=(*fit.notes, *_choice_note(chosen)),
    )


PROBE = Probe(
    "linear",
    HEADINGS["linear"],
    "Logistic regression unless --protocol says otherwise. What is tuned is "
    "chosen on a held-out part of train, then all of train is fitted; test is touched once.",
    settings=LinearSettings,
    plan=plan_linear,
)

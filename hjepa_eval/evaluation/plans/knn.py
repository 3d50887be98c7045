"""`hjepa knn`: nearest neighbours at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.settings import KnnSettings

if TYPE_CHECKING:
    from hjepa_eval.evaluation.measure import Plan
    from hjepa_eval.metrics.paired import Outcomes
    from hjepa_eval.probes.knn_protocols import KnnProtocol

HEADLINE_K = 20
CHOICE_IMAGES = 5000


def _arguments(settings: KnnSettings, protocol: KnnProtocol) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the protocol's arguments with the user's changes, and those changes as deviations.

    Raises:
        ConfigError: a temperature for votes that have none.
    """
    published: dict[str, Any] = {**protocol.arguments()}
    asked = settings.temperature
    first = None if asked is None else asked[0]
    wanted: dict[str, Any] = {"ks": settings.k, "temperature": first, "metric": settings.metric}
    if settings.metric == "euclidean" and protocol.weighting == "exponential":
        wanted["weighting"] = "inverse"  # As solo-learn does: exp(-d^2 / T) would depend on the features' scale.
    if asked is not None and wanted.get("weighting", protocol.weighting) != "exponential":
        raise ConfigError("--temperature has no part in these votes: only exp(cosine / T) has one; leave it out")
    changes = {name: value for name, value in wanted.items() if value is not None and value != published[name]}
    said = (
        f"{name.removesuffix('s')} {_spell(value)} instead of {_spell(published[name])}"
        for name, value in changes.items()
    )
    return {**published, **changes}, tuple(said)


def _spell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def plan_knn(settings: KnnSettings) -> Plan:
    """Return kNN as the settings ask for it; the headline is k = 20, fixed beforehand and so no choice on test."""
    import numpy as np

    from hjepa_eval.evaluation.findings import Finding, make_score, superclass_finding
    from hjepa_eval.evaluation.measure import Plan
    from hjepa_eval.evaluation.rows import LevelRow, superclass_name
    from hjepa_eval.probes.holdout import stratified_holdout
    from hjepa_eval.probes.knn import knn
    from hjepa_eval.probes.knn_protocols import knn_protocol

    protocol = knn_protocol(settings.knn_protocol)
    arguments, changes = _arguments(settings, protocol)

    further = (settings.temperature or ())[1:]

    def run(row: LevelRow, seed: int, choosing: bool) -> Finding:
        train = row.stream("train")
        test = None if settings.leave_one_out else row.samples("test")
        common: dict[str, Any] = {
            **arguments,
            "num_classes": len(row.class_names),
            "class_names": row.class_names,
            "backend": settings.backend,
            "device": row.features.device,
        }
        found = knn(
            train, test, leave_one_out=settings.leave_one_out, index=settings.index, more_temperatures=further, **common
        )
        labels = train.labels if test is None else test.labels
        best = min(found.scores, key=lambda k: (abs(k - HEADLINE_K), k))
        scores = [make_score("top1", found.scores[k], headline=k == best, k=k) for k in found.scores]
        scores += [make_score("top5", found.top5[k], k=k) for k in found.top5]
        scores += [
            make_score("top1", one, k=k, temperature=temperature)
            for temperature, each in found.more.items()
            for k, one in each.items()
        ]
        key = next(score.key for score in scores if score.headline)
        guess = found.predictions[best]
        outcomes: dict[str, Outcomes] = {key: guess == labels}
        held_out: dict[str, float] = {}
        superclass = row.superclass(settings.superclasses)
        if superclass is not None:
            score, right = superclass_finding(guess, labels, superclass, k=best)
            scores.append(score)
            outcomes[score.key] = right
        # A class needs two train samples for one of them to be held out.
        if choosing and not row.fused and not settings.leave_one_out and np.bincount(train.labels).max() > 1:
            share = min(0.1, CHOICE_IMAGES / len(train))
            held = stratified_holdout(train.labels, fraction=share, seed=seed)[1]
            inside = knn(train, leave_one_out=held, **{**common, "ks": (best,)})
            held_out[key] = next(iter(inside.scores.values())).value
        chosen = {"backend": found.backend}
        alone = ("leave-one-out: these are train images, each classified by the others; test took no part",)
        notes = (*found.notes, *(alone if settings.leave_one_out else ()))
        return Finding(tuple(scores), outcomes, {key: guess}, held_out, chosen, notes=notes)

    parameters = {
        "k": list(arguments["ks"]),
        "temperature": arguments["temperature"],
        "more_temperatures": list(further),
        "metric": arguments["metric"],
        "weighting": arguments["weighting"],
        "index": settings.index,
        "leave_one_out": settings.leave_one_out,
        "superclasses": superclass_name(settings.superclasses),
    }
    return Plan(
        probe="knn",
        protocol=f"{protocol.name}-knn",
        parameters=parameters,
        deviations=(*protocol.deviations, *changes),
        rule=f"a stratified tenth of train, {CHOICE_IMAGES:,} images at most, each classified by the rest of train",
        run=run,
        split="train" if settings.leave_one_out else "test",
    )

"""kNN: nearest neighbours at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hjepa_eval.config import Settings
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import Counts, Folder, Strengths, option, superclasses_option
from hjepa_eval.results.headings import HEADINGS, knn_heading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.metrics.paired import Outcomes
    from hjepa_eval.probes.knn import KnnResult
    from hjepa_eval.probes.knn_protocols import KnnProtocol
    from hjepa_eval.results.records import Score

HEADLINE_K = 20
CHOICE_IMAGES = 5000


class KnnSettings(Settings):
    """k-nearest-neighbour classification."""

    knn_protocol: str = option("dino", "dino, lightly, solo or majority", group=GROUP, alias="protocol")
    k: Counts | None = option(
        None, "numbers of neighbours, repeatable, all from one search; the protocol's when not given", group=GROUP
    )
    temperature: Strengths | None = option(
        None,
        "of the weights exp(cosine / T), repeatable, one search for all; the protocol's when not given",
        group=GROUP,
    )
    metric: Literal["cosine", "euclidean"] | None = option(None, "the protocol's when not given", group=GROUP)
    leave_one_out: bool = option(False, "classify train images by the others; test is not touched", group=GROUP)
    index: Literal["flat", "ivf", "hnsw", "ivfpq"] = option(
        "flat", "flat is exact; the others approximate it for large banks, their recall is measured", group=GROUP
    )
    backend: Literal["auto", "faiss", "torch"] = option("auto", "of the search; the answers are the same", group=GROUP)
    superclasses: Folder | None = superclasses_option()


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
    from hjepa_eval.evaluation.rows import superclass_name
    from hjepa_eval.probes.knn_protocols import knn_protocol

    protocol = knn_protocol(settings.knn_protocol)
    arguments, changes = _arguments(settings, protocol)
    parameters = {
        "k": list(arguments["ks"]),
        "temperature": arguments["temperature"],
        "more_temperatures": list((settings.temperature or ())[1:]),
        "metric": arguments["metric"],
        "weighting": arguments["weighting"],
        "index": settings.index,
        "leave_one_out": settings.leave_one_out,
        "superclasses": superclass_name(settings.superclasses),
    }
    return Plan(
        protocol=f"{protocol.name}-knn",
        parameters=parameters,
        run=lambda row, seed, choosing: _run(row, seed, choosing, settings=settings, arguments=arguments),
        deviations=(*protocol.deviations, *changes),
        rule=f"a stratified tenth of train, {CHOICE_IMAGES:,} images at most, each classified by the rest of train",
        split="train" if settings.leave_one_out else "test",
        heading=knn_heading(parameters),
        # 2: distances of a set with a far row are told apart.
        version=2 if arguments["metric"] == "euclidean" else 1,
    )


def _run(row: LevelRow, seed: int, choosing: bool, *, settings: KnnSettings, arguments: dict[str, Any]) -> Finding:
    """Return what the neighbours of one level say."""
    from hjepa_eval.evaluation.findings import Finding, superclass_finding
    from hjepa_eval.probes.knn import knn

    train = row.stream("train")
    test = None if settings.leave_one_out else row.samples("test")
    common: dict[str, Any] = {
        **arguments,
        "num_classes": len(row.class_names),
        "class_names": row.class_names,
        "backend": settings.backend,
        "device": row.features.device,
    }
    result = knn(
        train,
        test,
        leave_one_out=settings.leave_one_out,
        index=settings.index,
        more_temperatures=(settings.temperature or ())[1:],
        **common,
    )
    labels = train.labels if test is None else test.labels
    best = min(result.scores, key=lambda k: (abs(k - HEADLINE_K), k))
    scores = _scores(result, best)
    key = next(score.key for score in scores if score.headline)
    guess = result.predictions[best]
    outcomes: dict[str, Outcomes] = {key: guess == labels}
    superclass = row.superclass(settings.superclasses)
    if superclass is not None:
        score, right = superclass_finding(guess, labels, superclass, k=best)
        scores.append(score)
        outcomes[score.key] = right
    held_out: dict[str, float] = {}
    held_out_outcomes: dict[str, Outcomes] = {}
    held = _held_out(train.labels, seed) if choosing and not row.fused and not settings.leave_one_out else None
    if held is not None:
        inside = knn(train, leave_one_out=held, **{**common, "ks": (best,)})
        ((k, inner),) = inside.scores.items()
        held_out[key], held_out_outcomes[key] = inner.value, inside.predictions[k] == train.labels[held]
    alone = ("leave-one-out: these are train images, each classified by the others; test took no part",)
    return Finding(
        scores=tuple(scores),
        outcomes=outcomes,
        predictions={key: guess},
        held_out=held_out,
        held_out_outcomes=held_out_outcomes,
        chosen={"backend": result.backend},
        notes=(*result.notes, *(alone if settings.leave_one_out else ())),
    )


def _scores(result: KnnResult, best: int) -> list[Score]:
    """Return every accuracy as a score, that of the headline's k marked."""
    from hjepa_eval.evaluation.findings import make_score

    scores = [make_score("top1", result.scores[k], headline=k == best, k=k) for k in result.scores]
    scores += [make_score("top5", result.top5[k], k=k) for k in result.top5]
    return scores + [
        make_score("top1", score, k=k, temperature=temperature)
        for temperature, by_k in result.more.items()
        for k, score in by_k.items()
    ]


def _held_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64] | None:
    """Return the train samples to choose a level by; None where no class has a sample to spare."""
    import numpy as np

    from hjepa_eval.probes.holdout import stratified_holdout

    # A class needs two train samples for one of them to be held out.
    if np.bincount(labels).max() < 2:
        return None
    return stratified_holdout(labels, fraction=min(0.1, CHOICE_IMAGES / len(labels)), seed=seed)[1]


PROBE = Probe(
    "knn",
    HEADINGS["knn"],
    "FAISS exact search, cosine, DINO's weighting; all k from one search.",
    settings=KnnSettings,
    plan=plan_knn,
)

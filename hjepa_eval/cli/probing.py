"""Run a probe over the levels of some features and make its result record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hjepa_eval.cli.console import Talk
from hjepa_eval.cli.settings import ExtractionSettings, FewShotSettings, KnnSettings, LinearSettings
from hjepa_eval.cli.workflow import Features
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.few_shot import few_shot
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear import logistic_regression
from hjepa_eval.results import LevelResult, Record, Score, make_provenance

Findings = tuple[list[Score], dict[str, Any], tuple[str, ...]]
HEADLINE_K = 20


def make_score(metric: str, found: Interval, *, headline: bool = False, **parameters: Any) -> Score:
    """Return an interval as a record's score."""
    return Score(
        metric=metric,
        parameters=parameters,
        value=found.value,
        low=found.low,
        high=found.high,
        num_samples=found.num_samples,
        interval=found.method,
        headline=headline,
    )


def run_knn(features: Features, settings: KnnSettings, talk: Talk) -> Record:
    """Return kNN accuracies at every level; the headline is k = 20, fixed beforehand and so no choice on test."""

    def probe(level: int) -> Findings:
        found = knn(
            features.samples("train", level),
            features.samples("test", level),
            num_classes=len(features.class_names),
            ks=settings.k,
            temperature=settings.temperature,
            class_names=features.class_names,
        )
        headline = min(found.scores, key=lambda k: (abs(k - HEADLINE_K), k))
        scores = [make_score("top1", found.scores[k], headline=k == headline, k=k) for k in found.scores]
        scores += [make_score("top5", found.top5[k], k=k) for k in found.top5]
        return scores, {"backend": found.backend, "temperature": settings.temperature}, found.notes

    parameters = {"k": list(settings.k), "temperature": settings.temperature}
    return _record("knn", "dino-knn", parameters, features, settings, talk, probe)


def run_linear(features: Features, settings: LinearSettings, talk: Talk) -> Record:
    """Return logistic regression accuracies at every level, C chosen on a held-out part of train."""

    def probe(level: int) -> Findings:
        found = logistic_regression(
            features.samples("train", level),
            features.samples("test", level),
            num_classes=len(features.class_names),
            cs=settings.c,
            seed=settings.seed,
            class_names=features.class_names,
        )
        scores = [make_score("top1", found.score, headline=True), make_score("top5", found.top5)]
        chosen = {
            "C": found.c,
            "held_out_accuracy": {f"{c:g}": value for c, value in found.val_scores.items()},
            "iterations": found.iterations,
        }
        return scores, chosen, found.notes

    parameters = {"c": None if settings.c is None else list(settings.c)}
    return _record("linear", "logreg", parameters, features, settings, talk, probe)


def run_few_shot(features: Features, settings: FewShotSettings, talk: Talk) -> Record:
    """Return few-shot accuracies at every level, the same episodes for all, drawn from the test images."""

    def probe(level: int) -> Findings:
        pool = features.samples("test", level)
        scores: list[Score] = []
        notes: tuple[str, ...] = ()
        for shots in settings.shots:
            found = few_shot(
                pool,
                num_classes=len(features.class_names),
                ways=settings.ways,
                shots=shots,
                queries=settings.queries,
                episodes=settings.episodes,
                seed=settings.seed,
                class_names=features.class_names,
            )
            named = {"ways": settings.ways, "shots": shots, "queries": settings.queries}
            scores.append(make_score("accuracy", found.score, headline=True, **named))
            notes += found.notes
        return scores, {"classifier": "prototype", "episodes": settings.episodes}, tuple(dict.fromkeys(notes))

    parameters = {name: getattr(settings, name) for name in ("ways", "shots", "queries", "episodes")}
    return _record("fewshot", "few-shot-prototype", parameters, features, settings, talk, probe)


def _record(
    name: str,
    protocol: str,
    parameters: dict[str, Any],
    features: Features,
    settings: ExtractionSettings,
    talk: Talk,
    probe: Callable[[int], Findings],
) -> Record:
    started = time.perf_counter()
    levels = []
    with talk.progress(f"{name}, {features.encoder.name}", "") as report:
        for done, level in enumerate(features.levels, start=1):
            scores, chosen, notes = probe(level.index)
            levels.append(
                LevelResult(
                    level=level.index,
                    name=level.name,
                    width=level.width,
                    tokens=level.tokens,
                    scores=tuple(scores),
                    chosen=chosen,
                    notes=notes,
                )
            )
            report(done, len(features.levels), "")
    return Record(
        probe=name,
        protocol=protocol,
        parameters=parameters,
        model=features.encoder,
        dataset=features.dataset_info(),
        extraction=features.extracted(),
        levels=tuple(levels),
        provenance=make_provenance(
            seed=settings.seed,
            device=features.device,
            settings=settings.model_dump(mode="json", by_alias=True),
            seconds={**features.seconds, name: time.perf_counter() - started},
        ),
    )

"""Few-shot episodes at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hjepa_eval.config import Settings
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import Counts, option
from hjepa_eval.results.headings import HEADINGS

if TYPE_CHECKING:
    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.metrics.paired import Outcomes

CHOICE_EPISODES = 1000
FEW_SHOT_DEVIATIONS = (
    "episodes are drawn from the test images of all classes, and a base mean is that of the same classes in train; "
    "few-shot papers keep classes apart that no encoder has been trained on",
)


class FewShotSettings(Settings):
    """Few-shot episodes."""

    ways: int = option(5, "classes per episode", group=GROUP, ge=2)
    shots: Counts = option((1, 5), "labelled images per class, repeatable", group=GROUP)
    queries: int = option(15, "test images per class and episode", group=GROUP, ge=1)
    episodes: int = option(10_000, "number of episodes", group=GROUP, ge=2)
    classifier: Literal["prototype", "simpleshot-un", "simpleshot-l2n", "simpleshot-cl2n", "ridge", "logreg"] = option(
        "prototype", "prototype is simpleshot-l2n: the nearest mean of normalised features", group=GROUP
    )


def plan_few_shot(settings: FewShotSettings) -> Plan:
    """Return few-shot episodes as the settings ask for them, the same ones for every level and model."""
    parameters = {name: getattr(settings, name) for name in ("ways", "shots", "queries", "episodes", "classifier")}
    return Plan(
        moves=False,
        protocol=f"few-shot-{settings.classifier}",
        parameters={**parameters, "shots": list(settings.shots)},
        run=lambda row, seed, choosing: _run(row, seed, choosing, settings=settings),
        deviations=FEW_SHOT_DEVIATIONS,
        rule=f"{CHOICE_EPISODES:,} episodes of train images",
        may_be_left_out=True,
        version=2,
    )


def _run(row: LevelRow, seed: int, choosing: bool, *, settings: FewShotSettings) -> Finding:
    """Return what episodes say of one level."""
    import numpy as np

    from hjepa_eval.evaluation.findings import Finding, make_score
    from hjepa_eval.probes.few_labels.few_shot import few_shot

    test, base_mean = row.samples("test"), settings.classifier == "simpleshot-cl2n"
    choosing = choosing and not row.fused
    train = row.samples("train") if choosing or base_mean else None
    common: dict[str, Any] = {
        "num_classes": len(row.class_names),
        "ways": settings.ways,
        "queries": settings.queries,
        "seed": seed,
        "classifier": settings.classifier,
        "class_names": row.class_names,
        "base_mean": train.features.mean(axis=0) if train is not None and base_mean else None,
    }
    scores, notes = [], list[str]()
    outcomes: dict[str, Outcomes] = {}
    held_out: dict[str, float] = {}
    held_out_outcomes: dict[str, Outcomes] = {}
    for shots in settings.shots:
        result = few_shot(test, shots=shots, episodes=settings.episodes, **common)
        named = {"ways": settings.ways, "shots": shots, "queries": settings.queries}
        scores.append(make_score("accuracy", result.score, headline=True, **named))
        outcomes[scores[-1].key] = result.image_values
        notes += result.notes
        if train is not None and choosing:
            counts = np.bincount(train.labels, minlength=len(row.class_names))
            if counts.min() < shots + settings.queries:
                notes.append(
                    f"no level is chosen on train for {settings.ways}-way {shots}-shot: its episodes take "
                    f"{shots + settings.queries} images of every class, and one class has {counts.min()} in train"
                )
                continue
            inside = few_shot(train, shots=shots, episodes=CHOICE_EPISODES, **common)
            held_out[scores[-1].key] = inside.score.value
            held_out_outcomes[scores[-1].key] = inside.image_values
    return Finding(
        tuple(scores),
        outcomes,
        held_out=held_out,
        held_out_outcomes=held_out_outcomes,
        notes=tuple(dict.fromkeys(notes)),
    )


PROBE = Probe(
    "fewshot",
    HEADINGS["fewshot"],
    "Drawn from the test images, the same episodes for every level; nearest class mean of normalised features.",
    settings=FewShotSettings,
    plan=plan_few_shot,
)

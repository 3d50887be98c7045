"""`hjepa fewshot`: few-shot episodes at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa_eval.evaluation.settings import FewShotSettings

if TYPE_CHECKING:
    from hjepa_eval.evaluation.measure import Plan
    from hjepa_eval.metrics.paired import Outcomes

CHOICE_EPISODES = 1000
FEW_SHOT_DEVIATIONS = (
    "episodes are drawn from the test images of all classes, and a base mean is that of the same classes in train; "
    "few-shot papers keep classes apart that no encoder has been trained on",
)


def plan_few_shot(settings: FewShotSettings) -> Plan:
    """Return few-shot episodes as the settings ask for them, the same ones for every level and model."""
    import numpy as np

    from hjepa_eval.evaluation.findings import Finding, make_score
    from hjepa_eval.evaluation.measure import Plan
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.probes.few_labels.few_shot import few_shot

    def run(row: LevelRow, seed: int, choosing: bool) -> Finding:
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
        for shots in settings.shots:
            found = few_shot(test, shots=shots, episodes=settings.episodes, **common)
            named = {"ways": settings.ways, "shots": shots, "queries": settings.queries}
            scores.append(make_score("accuracy", found.score, headline=True, **named))
            outcomes[scores[-1].key] = found.episode_accuracies
            notes += found.notes
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
        return Finding(tuple(scores), outcomes, held_out=held_out, notes=tuple(dict.fromkeys(notes)))

    parameters = {name: getattr(settings, name) for name in ("ways", "shots", "queries", "episodes", "classifier")}
    return Plan(
        probe="fewshot",
        protocol=f"few-shot-{settings.classifier}",
        parameters={**parameters, "shots": list(settings.shots)},
        deviations=FEW_SHOT_DEVIATIONS,
        rule=f"{CHOICE_EPISODES:,} episodes of train images",
        run=run,
    )

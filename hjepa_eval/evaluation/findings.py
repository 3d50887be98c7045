"""What a probe found at one level, with everything that statistics across levels and seeds need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.metrics.accuracy import superclass_accuracy
from hjepa_eval.metrics.intervals import Interval, crossed_interval, spread
from hjepa_eval.metrics.paired import Outcomes
from hjepa_eval.results.records import Score


@dataclass(frozen=True)
class Finding:
    """One level, one seed.

    Attributes:
        scores: all numbers; those marked as headlines stand in tables.
        outcomes: score key -> [N] right or wrong of each test sample, or what it adds to the mean of episodes.
        predictions: score key -> int64 [N], where the probe predicts classes of samples.
        held_out: score key -> the same score on samples that are not test, where it was measured.
        held_out_outcomes: score key -> [M] the outcomes that it is the mean of, as `outcomes` has them of test.
        chosen: what was chosen without the test set, and how it went.
        calibration: `ece`, `ece_scaled` (after temperature scaling) and the `temperature`, where there are logits.
        notes: what a reader must know.
    """

    scores: tuple[Score, ...]
    outcomes: dict[str, Outcomes]
    predictions: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    held_out_outcomes: dict[str, Outcomes] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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


def superclass_finding(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], superclass: NDArray[np.int64], **parameters: Any
) -> tuple[Score, Outcomes]:
    """Return the accuracy over superclasses as a headline score, and its outcomes."""
    found = superclass_accuracy(predictions, labels, superclass=superclass)
    score = make_score("superclass", found, headline=True, **parameters)
    return score, superclass[predictions] == superclass[labels]


def merge_seeds(findings: Mapping[int, Finding]) -> Finding:
    """Return one finding of several seeds: means with all values; outcomes are shares of the seeds that were right."""
    if len(findings) == 1:
        return next(iter(findings.values()))
    each = list(findings.values())
    outcomes = {
        key: np.mean([np.asarray(one.outcomes[key], np.float64) for one in each], axis=0) for key in each[0].outcomes
    }
    return Finding(
        scores=tuple(
            mean_score(
                [one.scores[i] for one in each], over="seeds", outcomes=[one.outcomes.get(score.key) for one in each]
            )
            for i, score in enumerate(each[0].scores)
        ),
        outcomes=outcomes,
        predictions={
            f"{key} seed={seed}": array for seed, one in findings.items() for key, array in one.predictions.items()
        },
        held_out={key: float(np.mean([one.held_out[key] for one in each])) for key in each[0].held_out},
        # Each seed holds out images of its own, the same ones at every level.
        held_out_outcomes={
            key: np.concatenate([one.held_out_outcomes[key] for one in each]) for key in each[0].held_out_outcomes
        },
        chosen={f"seed {seed}": one.chosen for seed, one in findings.items()},
        calibration={name: float(np.mean([one.calibration[name] for one in each])) for name in each[0].calibration},
        notes=tuple(dict.fromkeys(note for one in each for note in one.notes)),
    )


def mean_score(scores: Sequence[Score], *, over: str, outcomes: Sequence[Outcomes | None] = ()) -> Score:
    """Return the mean of several seeds or draws; its interval adds what they and what test samples leave open.

    With the `outcomes` [N] of each it is that of their crossed design. Without, the two add as variances, and what one
    seed's samples leave stands for what those of the mean do, which makes it wider. A single score stays as it is.
    """
    if len(scores) == 1:
        return scores[0]
    known = [array for array in outcomes if array is not None]
    if len(known) == len(scores) and len(known[0]) > 1:
        crossed = crossed_interval(np.stack(known))
        if crossed.high > crossed.low:
            values = tuple(score.value for score in scores)
            return scores[0].model_copy(
                update={
                    "value": float(np.mean(values)),
                    "low": max(0.0, crossed.low),
                    "high": min(1.0, crossed.high),
                    "interval": f"{crossed.method} over samples and {len(scores)} {over}",
                    "values": values,
                    "std": float(np.std(values, ddof=1)),
                }
            )
    found = spread([Interval(s.value, s.low, s.high, s.num_samples, s.interval) for s in scores])
    below, above = (float(np.mean([abs(getattr(s, end) - s.value) for s in scores])) for end in ("low", "high"))
    across = found.interval.high - found.mean
    return scores[0].model_copy(
        update={
            "value": found.mean,
            "low": max(0.0, found.mean - float(np.hypot(across, below))),
            "high": min(1.0, found.mean + float(np.hypot(across, above))),
            "interval": f"{scores[0].interval} and {found.interval.method} over {len(scores)} {over}",
            "values": found.values,
            "std": found.std,
        }
    )


def count_classes(
    predictions: Mapping[str, NDArray[np.int64]], labels: NDArray[np.int64], class_names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return class name -> (right, all) over the predictions of all seeds."""
    if not predictions:
        return {}
    total = np.bincount(labels, minlength=len(class_names)) * len(predictions)
    right = sum(
        np.bincount(labels[guess == labels], minlength=len(class_names)).astype(np.int64)
        for guess in predictions.values()
    )
    names = [name if class_names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(class_names)]
    return {names[c]: (int(np.asarray(right)[c]), int(total[c])) for c in np.flatnonzero(total)}

"""Classes on a page: confusion matrices, the pairs most often confused, and which classes a level gains or loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ResultError
from hjepa_eval.metrics.classes import confusion_counts, most_confused, per_class_differences
from hjepa_eval.report.figures.confusion import confusion_picture
from hjepa_eval.report.figures.per_class import class_difference_picture
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.page.models import PageModel
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.statements import Heading
from hjepa_eval.results.outcomes import SampleOutcomes
from hjepa_eval.results.records import LevelResult, Record, Score

MOST_PAIRS_OF_CLASSES = 8
# Of more levels only the pairs with the chosen one are shown.
ALL_PAIRS_UP_TO = 3


@dataclass(frozen=True)
class Confusion:
    """A level's confusion matrix; `confused` has (true class, taken for, images, share of the true class).

    `label` says of how many runs (seeds or draws) images and shares are the mean, if of several.
    """

    level: str
    label: str
    picture: Picture
    confused: tuple[tuple[str, str, str, float], ...]


@dataclass(frozen=True)
class Difference:
    """Accuracy per class at two levels; `pair` is the selector's value, such as `2-0`."""

    pair: str
    label: str
    picture: Picture


@dataclass(frozen=True)
class ClassesView:
    """What a probe of a model says about classes; `why_not` says what is missing, and how to add it.

    `more_pairs` is how many pairs of levels have no picture.
    """

    model: int
    probe: str
    confusions: tuple[Confusion, ...] = ()
    differences: tuple[Difference, ...] = ()
    why_not: str = ""
    more_pairs: int = 0


def classes_of(model: PageModel, names: Sequence[str], heading: Heading) -> list[ClassesView]:
    """Return a view per headline score of a model that predicts classes of test images.

    Args:
        model: of the page.
        names: of the classes.
        heading: calls probes as in the page's table.
    """
    found = []
    for each in model.located:
        for score in _headline_scores(each.record):
            probe = heading(each.record, score)
            try:
                samples = each.samples
            except ResultError as error:
                if each.record.probe != "fewshot":
                    found.append(ClassesView(model.number, probe, why_not=str(error)))
                continue
            if _levels_with(each.record, samples, score.key) and len(samples.labels):
                prefix = f"c{model.number}-{len(found)}-"
                found.append(_view(model, each, score.key, samples, probe, names, prefix))
    return found


def _headline_scores(record: Record) -> list[Score]:
    """Return the headline scores over single classes; those over superclasses have no predictions of their own."""
    scores = {score.key: score for level in record.levels for score in level.scores if score.headline}
    return [score for score in scores.values() if score.metric != "superclass"]


def _predictions(samples: SampleOutcomes, level: int, key: str) -> list[NDArray[np.int64]]:
    """Return the predictions [N] of each seed: `top1 k=20`, or `top1 k=20 seed=0` and so on."""
    return [
        guess
        for (number, name), guess in samples.predictions.items()
        if number == level and (name == key or name.startswith((f"{key} seed=", f"{key} draw=")))
    ]


def _levels_with(record: Record, samples: SampleOutcomes, key: str) -> list[LevelResult]:
    return [level for level in record.levels if _predictions(samples, level.level, key)]


def _view(
    model: PageModel,
    located: Located,
    key: str,
    samples: SampleOutcomes,
    probe: str,
    names: Sequence[str],
    prefix: str,
) -> ClassesView:
    record = located.record
    counted = [(level, *_counts(samples, level.level, key, len(names))) for level in _levels_with(record, samples, key)]
    together = np.sum([counts for _, counts, _ in counted], axis=0)
    confusions = tuple(
        _confusion(level, counts, runs=runs, together=together, probe=probe, names=names, prefix=prefix)
        for level, counts, runs in counted
    )
    levels = [level.level for level in record.levels if not level.fused and (level.level, key) in samples.outcomes]
    pairs = pairs_of_levels(record, levels, key)
    differences = tuple(_difference(pair, samples, key=key, probe=probe, names=names, prefix=prefix) for pair in pairs)
    more = comb(len(levels), 2) - len(pairs)
    return ClassesView(model.number, probe, confusions, differences, more_pairs=more)


def _counts(samples: SampleOutcomes, level: int, key: str, num_classes: int) -> tuple[NDArray[np.int64], int]:
    """Return the confusion counts [C, C] of a level over all its runs (seeds or draws), and how many these are."""
    guesses = _predictions(samples, level, key)
    start = np.zeros((num_classes, num_classes), np.int64)
    return sum((confusion_counts(samples.labels, guess, num_classes) for guess in guesses), start=start), len(guesses)


def _confusion(
    level: LevelResult,
    counts: NDArray[np.int64],
    *,
    runs: int,
    together: NDArray[np.int64],
    probe: str,
    names: Sequence[str],
    prefix: str,
) -> Confusion:
    number = "joined" if level.fused else str(level.level)
    label = ("levels joined" if level.fused else f"level {level.level}") + _mean_of(runs)
    picture = confusion_picture(
        counts, names, title=f"{probe}, {label}", prefix=f"{prefix}{number}-", together=together, runs=runs
    )
    totals = counts.sum(axis=1)
    confused = tuple(
        (
            names[true],
            names[taken],
            f"{counts[true, taken] / runs:,.{0 if runs == 1 else 1}f}",
            float(counts[true, taken] / totals[true]),
        )
        for true, taken in most_confused(counts, MOST_PAIRS_OF_CLASSES)
    )
    return Confusion(number, label, picture, confused)


def _mean_of(runs: int) -> str:
    return "" if runs < 2 else f", mean of {runs} runs"


def _difference(
    levels: tuple[int, int], samples: SampleOutcomes, *, key: str, probe: str, names: Sequence[str], prefix: str
) -> Difference:
    one, other = levels
    label = f"level {one} - level {other}"
    found = per_class_differences(samples.labels, samples.outcomes[one, key], samples.outcomes[other, key], names)
    picture = class_difference_picture(
        found,
        title=f"{probe}, {label}{_mean_of(len(_predictions(samples, one, key)))}",
        prefix=f"{prefix}{one}-{other}-",
        levels=(f"level {one}", f"level {other}"),
    )
    return Difference(f"{one}-{other}", label, picture)


def pairs_of_levels(record: Record, levels: Sequence[int], key: str) -> list[tuple[int, int]]:
    """Return the pairs of levels to compare, the coarser first: all of a few, else those with the chosen level."""
    pairs = [(other, one) for one, other in combinations(sorted(levels), 2)]
    if len(levels) <= ALL_PAIRS_UP_TO:
        return pairs[::-1]
    chosen = next((choice.level for choice in record.choices if choice.score == key), max(levels))
    return [pair for pair in pairs if chosen in pair][::-1]

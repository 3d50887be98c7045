"""Models of a page against each other: paired tests where the records have outcomes, and the lead over baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from hjepa_eval.errors import ResultError
from hjepa_eval.report.columns import column_names
from hjepa_eval.report.model_pairs import ModelPair, compare_models
from hjepa_eval.report.page_models import PageModel
from hjepa_eval.results import Record, Score

# Every comparison draws bootstrap samples.
MOST_COMPARISONS = 8


@dataclass(frozen=True)
class Compared:
    """Two models of a page: the paired tests, or why there are none."""

    first: PageModel
    second: PageModel
    pairs: tuple[ModelPair, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Lead:
    """How far a model is ahead of a baseline: points of accuracy, with the interval of the paired test if any."""

    over: str
    difference: float
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Headline:
    """What matters of a probe: the score at the level chosen without the test set, and its leads over baselines.

    `how` says how the level came to be shown, such as `chosen on train`.
    """

    model: PageModel
    probe: str
    level: int
    how: str
    score: Score
    leads: tuple[Lead, ...]


def compare_all(models: Sequence[PageModel]) -> tuple[list[Compared], int]:
    """Return the comparisons of every model with all others, baselines among themselves left out, and how many more.

    At most `MOST_COMPARISONS` are made.
    """
    wanted = [(one, other) for one, other in combinations(models, 2) if not one.baseline]
    found = []
    for first, second in wanted[:MOST_COMPARISONS]:
        try:
            found.append(Compared(first, second, tuple(compare_models(first.located, second.located))))
        except ResultError as error:
            found.append(Compared(first, second, (), str(error)))
    return found, len(wanted) - len(found)


def headlines(models: Sequence[PageModel], compared: Sequence[Compared]) -> list[Headline]:
    """Return a headline for each headline score of each model that is no baseline; of all models if all are."""
    main = [model for model in models if not model.baseline] or list(models)
    heading = column_names([each.record for model in models for each in model.located])
    found = []
    for model in main:
        for each in model.located:
            for key, level, how, score in _chosen(each.record):
                leads = tuple(_leads(model, each.record, key, models, compared))
                found.append(Headline(model, heading(each.record, score), level, how, score, leads))
    return found


def _chosen(record: Record) -> Iterator[tuple[str, int, str, Score]]:
    """Yield (key, level, how, score) of each headline score: at the chosen level, else the only or the last one."""
    singles = {level.level: level for level in record.levels if not level.fused}
    chosen = {choice.score: choice.level for choice in record.choices}
    for key in dict.fromkeys(score.key for level in singles.values() for score in level.scores if score.headline):
        values = {n: score for n, level in singles.items() for score in level.scores if score.key == key}
        number = chosen.get(key, max(values))
        how = "chosen on train" if key in chosen else "the only one" if len(values) == 1 else "the last"
        if number in values:
            yield key, number, how, values[number]


def _leads(
    model: PageModel, record: Record, key: str, models: Sequence[PageModel], compared: Sequence[Compared]
) -> Iterator[Lead]:
    own = {found[0]: found for found in _chosen(record)}[key]
    for other in models:
        if not other.baseline or other is model:
            continue
        tested = _tested(model, other, record, own[3], compared)
        if tested is not None:
            yield Lead(other.kind, tested.difference, tested.low, tested.high, tested.p_holm)
            continue
        rivals = [
            rival
            for each in other.located
            if (each.record.protocol, each.record.parameters) == (record.protocol, record.parameters)
            for rival in _chosen(each.record)
            if rival[0] == key
        ]
        if rivals:
            yield Lead(other.kind, own[3].value - rivals[0][3].value)


def _tested(
    model: PageModel, other: PageModel, record: Record, score: Score, compared: Sequence[Compared]
) -> ModelPair | None:
    """Return the paired test of the chosen levels of two models, if it was made."""
    heading = column_names([record])(record, score)
    for each in compared:
        if each.first is model and each.second is other:
            return next((p for p in each.pairs if p.why == "chosen levels" and p.probe == heading), None)
    return None

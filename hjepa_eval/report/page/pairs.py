"""Models of a page against each other: paired tests where the records have outcomes, and the lead over baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from hjepa_eval.errors import ResultError
from hjepa_eval.metrics.paired import Paired
from hjepa_eval.report.page.models import PageModel
from hjepa_eval.report.tables.model_pairs import CHOSEN, ModelPair, compare_models
from hjepa_eval.report.tables.ranking import headline_scores
from hjepa_eval.report.tables.standing import called, is_twin_of_another
from hjepa_eval.report.tables.statements import Heading
from hjepa_eval.results.records import Record, Score

# Of pairs without a baseline: they grow with the square of the models, and every comparison draws bootstrap samples.
MOST_MODEL_PAIRS = 8


@dataclass(frozen=True)
class Compared:
    """Two models of a page: the paired tests, or why there are none."""

    first: PageModel
    second: PageModel
    pairs: tuple[ModelPair, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Lead:
    """How far a model is ahead of a baseline, with the paired test where there is one."""

    over: str
    difference: float
    test: Paired | None = None


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
    """Return the comparisons of every model with its baselines and with other models, and how many more pairs exist.

    Baselines come first and without a limit, for leads are read from them. At most `MOST_MODEL_PAIRS` pairs of other
    models are compared, baselines are not compared with each other, nor a model with another's untrained twin.
    """
    pairs = [(one, other) for one, other in combinations(models, 2) if not one.baseline]
    beaten = [(one, other) for one, other in pairs if other.baseline and _is_its_own(other, one, models)]
    rivals = [(one, other) for one, other in pairs if not other.baseline]
    found = [_compare(*pair) for pair in (*beaten, *rivals[:MOST_MODEL_PAIRS])]
    return found, len(pairs) - len(found)


def _compare(first: PageModel, second: PageModel) -> Compared:
    try:
        return Compared(first, second, tuple(compare_models(first.located, second.located)))
    except ResultError as error:
        return Compared(first, second, (), str(error))


def headlines(models: Sequence[PageModel], compared: Sequence[Compared], heading: Heading) -> list[Headline]:
    """Return a headline for each headline score of each model that is no baseline, called as in the table."""
    found = []
    for model in (model for model in models if not model.baseline):
        names = _names_of_baselines(model, models)
        for each in model.located:
            for key, level, how, score in headline_scores(each.record):
                leads = (
                    _lead(name, other, each.record, key, score, _tests(model, other, compared)) for other, name in names
                )
                shown = tuple(lead for lead in leads if lead is not None)
                found.append(Headline(model, heading(each.record, score), level, how, score, shown))
    return found


def _is_its_own(baseline: PageModel, model: PageModel, models: Sequence[PageModel]) -> bool:
    """Return whether a baseline stands beside a model: its own untrained twin, or one of no model in view."""
    return not is_twin_of_another(baseline.encoder, model.encoder, [each.encoder for each in models])


def _names_of_baselines(model: PageModel, models: Sequence[PageModel]) -> list[tuple[PageModel, str]]:
    """Return a model's baselines, each with what it is called; two of a kind by their names."""
    own = [each for each in models if each.baseline and _is_its_own(each, model, models)]
    kinds = [called(each.encoder, model.encoder) for each in own]
    often = Counter(kinds)
    return [(each, kind if often[kind] == 1 else each.name) for each, kind in zip(own, kinds, strict=True)]


def _lead(
    name: str, other: PageModel, record: Record, key: str, score: Score, tests: Sequence[ModelPair]
) -> Lead | None:
    """Return the lead over a baseline: from the paired test of the chosen levels, else from the two scores."""
    for test in tests:
        if (test.why, test.records[0], test.score) == (CHOSEN, record.key, key):
            return Lead(name, test.difference, test.test)
    for each in other.located:
        if (each.record.protocol, each.record.parameters) == (record.protocol, record.parameters):
            rival = next((found for other_key, _, _, found in headline_scores(each.record) if other_key == key), None)
            if rival is not None:
                return Lead(name, score.value - rival.value)
    return None


def _tests(model: PageModel, other: PageModel, compared: Sequence[Compared]) -> tuple[ModelPair, ...]:
    return next((each.pairs for each in compared if each.first is model and each.second is other), ())

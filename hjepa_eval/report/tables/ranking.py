"""Models in one ranking per probe: each at the level that was chosen without the test set, tested against the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hjepa_eval.errors import ResultError
from hjepa_eval.report.tables.model_pairs import Located, ModelPair, adjust, check_samples, fits, pair_at
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.standing import APART
from hjepa_eval.report.tables.table import Row, build_table
from hjepa_eval.results.records import Record, Score

ABOUT = (
    "One row per model, at the level chosen on train (else its only or its last one): accuracy in percent with its "
    "95 % interval, points behind the best with the paired interval, and p of the paired test against it, adjusted by "
    "Holm over the rows. The best is the best on test, so it looks a little better than it is."
)


def headline_scores(record: Record) -> Iterator[tuple[str, int, str, Score]]:
    """Yield (key, level, how, score) of each headline score: at the chosen level, else the only or the last one."""
    singles = {level.level: level for level in record.levels if not level.fused}
    chosen = {choice.score: choice.level for choice in record.choices}
    for key in dict.fromkeys(score.key for level in singles.values() for score in level.scores if score.headline):
        values = {n: score for n, level in singles.items() for score in level.scores if score.key == key}
        number = chosen.get(key, max(values))
        how = "chosen on train" if key in chosen else "the only one" if len(values) == 1 else "the last"
        if number in values:
            yield key, number, how, values[number]


@dataclass(frozen=True)
class Ranked:
    """A model in a ranking.

    Attributes:
        model: as headed in tables.
        baseline: whether it is there to be beaten.
        level: whose score it is.
        how: it came to be taken, such as `chosen on train`.
        score: the model's.
        row: of the table, with the costs of the level.
        behind: this model minus the best; None for the best, and where there is no test.
        why_not: what a test needs that is absent; empty where there is one.
    """

    model: str
    baseline: bool
    level: int
    how: str
    score: Score
    row: Row
    behind: ModelPair | None = None
    why_not: str = ""

    @property
    def told(self) -> bool:
        """Whether a paired test tells it from the best."""
        return self.behind is not None and self.behind.test is not None and self.behind.test.p_holm < APART


@dataclass(frozen=True)
class Ranking:
    """The models by one score, the highest first; `title` is the heading of its column."""

    title: str
    rows: tuple[Ranked, ...]

    @property
    def notes(self) -> list[str]:
        """Why rows have no test, each reason once."""
        return list(dict.fromkeys(f"{row.model} is not tested: {row.why_not}" for row in self.rows if row.why_not))


def rankings(selection: Selection) -> list[Ranking]:
    """Return a ranking per headline score that several models have, in the order of the table's columns."""
    table = build_table(selection)
    rows = {(row.model, row.level): row for row in table.rows if not row.joined}
    columns: dict[str, dict[str, tuple[Located, Ranked]]] = {title: {} for title in table.columns}
    for located in selection.located:
        record = located.record
        for _, level, how, score in headline_scores(record):
            model = selection.label(record)
            held = columns[selection.heading(record, score)].get(model)
            # Levels that were measured one by one are several records.
            if held is None or (held[1].how != "chosen on train" and level > held[1].level):
                row = rows[model, level]
                ranked = Ranked(model, selection.beaten(record), level, how, score, row)
                columns[selection.heading(record, score)][model] = (located, ranked)
    return [
        Ranking(title, _tested(list(models.values()), selection))
        for title, models in columns.items()
        if len(models) > 1
    ]


def _tested(models: Sequence[tuple[Located, Ranked]], selection: Selection) -> tuple[Ranked, ...]:
    """Return the models, the highest first, each tested against the first."""
    (best, first), *others = sorted(models, key=lambda entry: -entry[1].score.value)
    rows = [_against(located, ranked, best, first, selection) for located, ranked in others]
    tests = iter(adjust([row.behind for row in rows if row.behind is not None]))
    return (first, *(row if row.behind is None else replace(row, behind=next(tests)) for row in rows))


def _against(located: Located, ranked: Ranked, best: Located, first: Ranked, selection: Selection) -> Ranked:
    if not fits(located.record, best.record):
        return replace(ranked, why_not="it was measured with other parameters or seeds than the best")
    try:
        check_samples(located, best)
    except ResultError as error:
        return replace(ranked, why_not=str(error))
    levels = (ranked.level, first.level)
    return replace(ranked, behind=pair_at(located, best, ranked.score, levels=levels, heading=selection.heading))

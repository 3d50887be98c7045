"""Where a score stands among the levels of its model: the highest or not, ahead of which, how far from the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hjepa_eval.report.columns import ColumnKey, column_keys
from hjepa_eval.report.variants import Variant, variant
from hjepa_eval.results import LevelResult, Record, Score

APART = 0.05


@dataclass(frozen=True)
class RunnerUp:
    """The second highest level of a column, and the paired test of the highest against it.

    Attributes:
        level: number of the runner-up.
        difference: highest minus runner-up.
        low: lower end of its 95 % interval.
        high: upper end.
        p_holm: of no difference, adjusted for all pairs of levels in the record.
        test: which test that is.
    """

    level: int
    difference: float
    low: float
    high: float
    p_holm: float
    test: str


@dataclass(frozen=True)
class Standing:
    """A score among the single levels of its model, in one column.

    Attributes:
        best: whether it is the highest; False where there is one level only, and for levels joined.
        delta: the score minus that of the model's last single level; None for that one, one level and levels joined.
        runner_up: of the highest, where its record has the paired test.
    """

    best: bool = False
    delta: float | None = None
    runner_up: RunnerUp | None = None

    @property
    def apart(self) -> bool:
        """Whether the paired test tells it from the runner-up."""
        return self.runner_up is not None and self.runner_up.p_holm < APART


def standings(records: Sequence[Record]) -> Callable[[Record, LevelResult, Score], Standing]:
    """Return a function that says where a score stands among all the records' levels of the same model and column."""
    column = column_keys(records)
    values: dict[tuple[tuple, Variant, ColumnKey], dict[int, float]] = {}
    last: dict[tuple[tuple, Variant], int] = {}
    for record in records:
        model = record.dataset.key, variant(record)
        for level in record.levels:
            for score in () if level.fused else level.scores:
                values.setdefault((*model, column(record, score)), {})[level.level] = score.value
                last[model] = max(level.level, last.get(model, 0))

    def stand(record: Record, level: LevelResult, score: Score) -> Standing:
        model = record.dataset.key, variant(record)
        found = values.get((*model, column(record, score)), {})
        if level.fused or len(found) < 2:
            return Standing()
        end = last[model]
        delta = score.value - found[end] if end in found and end != level.level else None
        if score.value < max(found.values()):
            return Standing(delta=delta)
        return Standing(best=True, delta=delta, runner_up=_runner_up(record, level.level, score, found))

    return stand


def _runner_up(record: Record, best: int, score: Score, values: dict[int, float]) -> RunnerUp | None:
    """Return the test against the highest of the other levels; None where the record lacks it."""
    level = max((level for level in sorted(values) if level != best), key=lambda level: values[level])
    for pair in record.comparisons:
        if pair.score == score.key and (pair.first, pair.second) == (best, level):
            return RunnerUp(level, pair.difference, pair.low, pair.high, pair.p_holm, pair.test)
        if pair.score == score.key and (pair.first, pair.second) == (level, best):
            return RunnerUp(level, -pair.difference, -pair.high, -pair.low, pair.p_holm, pair.test)
    return None

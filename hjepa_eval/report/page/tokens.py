"""The page's part of tokens: of each record its grids, and of dense ones a bar per level with its ceiling as a tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.report.tables.grid import Grid
from hjepa_eval.report.tables.rounding import percent
from hjepa_eval.report.token_grids import token_grids
from hjepa_eval.results.records import Record


@dataclass(frozen=True)
class Bar:
    """The headline of a level, and the ceiling of its grid; both in [0, 1]."""

    level: int
    value: float
    ceiling: float
    text: str


@dataclass(frozen=True)
class TokenView:
    """A grid, and the bars above it, if any."""

    grid: Grid
    bars: tuple[Bar, ...] = ()


def token_views(records: Sequence[Record]) -> list[TokenView]:
    """Return what the part shows; nothing where no record is of tokens."""
    views = []
    for record in records:
        views += [TokenView(grid, () if number else _bars(record)) for number, grid in enumerate(token_grids([record]))]
    return views


def _bars(record: Record) -> tuple[Bar, ...]:
    bars = []
    for level in record.levels if record.probe == "dense" else ():
        headline = next(score for score in level.scores if score.headline)
        ceiling = next(
            (
                score
                for score in level.scores
                if score.metric == "ceiling" and score.parameters.get("of") == headline.metric
            ),
            None,
        )
        if ceiling is not None:
            shown = f"{percent(headline.value)} of {percent(ceiling.value)}"
            bars.append(Bar(level.level, _inside(headline.value), _inside(ceiling.value), shown))
    return tuple(bars)


def _inside(value: float) -> float:
    return min(1.0, max(0.0, value))

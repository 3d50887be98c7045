"""Tables made by hand for the tests of figures; the numbers are invented."""

from __future__ import annotations

from hjepa_eval.report.tables.table import Cell, Row, Table
from hjepa_eval.results.records import CostEntry, Score


def cell(value: float, low: float, high: float) -> Cell:
    score = Score(metric="top1", value=value, low=low, high=high, num_samples=200, interval="wilson 95%")
    return Cell(score)


def row(model: str, level: int, *cells: Cell | None, cost: CostEntry | None = None, joined: bool = False) -> Row:
    return Row(model, level, f"block {level}", 8, 4, cells, joined=joined, cost=cost)


def table(*rows: Row, columns: tuple[str, ...] = ("kNN k=20",)) -> Table:
    return Table("digits", 1000, 200, columns, rows, ())

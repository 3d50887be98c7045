"""The table of a page: models as groups of rows, levels down, probes and costs across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.report.tables.legend import cost_columns, how_to_read
from hjepa_eval.report.tables.rounding import gain_within, interval, percent, points
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.statements import calibrations, deviations, explanations, sentences_of
from hjepa_eval.report.tables.table import Cell, Row, Table, data_notes

NO_COSTS = (
    "These records hold no GFLOP and no time per image, for they were made before hjepa measured them; "
    "running the same command again, on the features in its cache, adds both."
)


@dataclass(frozen=True)
class CellView:
    """A score as text; `mark` is what legend and screen readers call `best` or `best, apart from the runner-up`."""

    value: str
    interval: str
    delta: str
    mark: str
    best: bool
    apart: bool
    against: str


@dataclass(frozen=True)
class RowView:
    """A row as text; `level` is its number, or `joined`."""

    label: str
    level: str
    name: str
    cells: tuple[CellView | None, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True)
class TableView:
    """The table as text.

    Attributes:
        columns: of scores.
        costs: headings of cost columns.
        groups: (model, whether a baseline, rows).
        no_costs: the sentence that says what adds costs; empty when they are there.
        data: of which part of a data set the numbers are.
        said: (model, what its paired tests say), of models that have some.
        lines: how to read the table, and what its probes do not reproduce.
    """

    columns: tuple[str, ...]
    costs: tuple[str, ...]
    groups: tuple[tuple[str, bool, tuple[RowView, ...]], ...]
    no_costs: str
    data: tuple[str, ...]
    said: tuple[tuple[str, tuple[str, ...]], ...]
    lines: tuple[str, ...]


def table_view(table: Table, selection: Selection) -> TableView:
    """Return a selection's table as the page shows it."""
    costs = cost_columns(table)
    groups: dict[str, list[tuple[int, Row]]] = {}
    for place, row in enumerate(table.rows):
        groups.setdefault(row.model, []).append((place, row))
    shown = tuple(
        (
            model,
            rows[0][1].baseline,
            tuple(_row(row, [texts[place] for texts in costs.values()]) for place, row in rows),
        )
        for model, rows in groups.items()
    )
    missing = all(row.cost is None for row in table.rows)
    data = data_notes(selection.records)
    lines = (
        # The page marks the highest level in its own way: the first line is about asterisks.
        *how_to_read(table)[1:],
        *explanations(selection),
        *calibrations(selection),
        *(note for note in table.notes if note not in data),
        *deviations(selection),
    )
    return TableView(
        table.columns,
        tuple(costs),
        shown,
        NO_COSTS if missing else "",
        data,
        _said(selection),
        tuple(dict.fromkeys(lines)),
    )


def _said(selection: Selection) -> tuple[tuple[str, tuple[str, ...]], ...]:
    said = (
        (name, tuple(sentence for each in own for sentence in sentences_of(each.record, selection.heading)))
        for name, own in selection.by_model().items()
    )
    return tuple((name, sentences) for name, sentences in said if sentences)


def _row(row: Row, costs: Sequence[str]) -> RowView:
    level = "joined" if row.joined else str(row.level)
    return RowView(
        "levels joined" if row.joined else f"level {row.level}",
        level,
        row.level_name,
        tuple(None if cell is None else _cell(cell) for cell in row.cells),
        tuple(costs),
    )


def _cell(cell: Cell) -> CellView:
    standing, test = cell.standing, cell.standing.test
    over = ""
    if test is not None:
        gain, ends = gain_within(test)
        over = f"{gain} [{ends}] over level {standing.rival}"
    mark = "highest, apart from the runner-up" if standing.apart else "highest" if standing.best else ""
    delta = "" if standing.delta is None else points(standing.delta)
    return CellView(percent(cell.score.value), interval(cell.score), delta, mark, standing.best, standing.apart, over)

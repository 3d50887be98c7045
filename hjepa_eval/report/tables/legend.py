"""The legend: short texts of cells and costs, and the lines that say how to read them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hjepa_eval.report.tables.costs import short, size
from hjepa_eval.report.tables.rounding import gain_within, p_equals
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.statements import calibrations, choices, deviations, explanations, of_episodes, statements
from hjepa_eval.report.tables.table import Cell, Row, Table


def cost_columns(table: Table) -> dict[str, list[str]]:
    """Return heading -> text of each row, of what a level costs; what no record has measured has no column."""
    columns = {
        "width": [str(row.width) for row in table.rows],
        "tokens": [str(row.tokens) for row in table.rows],
        "GFLOP": ["" if row.cost is None else short(row.cost.gflop) for row in table.rows],
        "ms": ["" if row.milliseconds is None else _milliseconds(row) for row in table.rows],
        "store": [size(row.store_bytes) for row in table.rows],
    }
    return {title: texts for title, texts in columns.items() if any(texts)}


def how_to_read(table: Table, *, deltas: bool = True) -> list[str]:
    """Return the lines beside the table that say what its numbers and marks are; only of what is in it."""
    cells = [cell for row in table.rows for cell in row.cells if cell is not None]
    parts = ["Accuracy in percent, with its 95 % interval"]
    if deltas and any(cell.standing.delta is not None for cell in cells):
        parts.append("in parentheses the points above the model's last level")
    if any(cell.standing.best for cell in cells):
        parts.append("* marks a model's highest level in that column")
    if any(cell.standing.apart for cell in cells):
        parts.append("** one that a paired test tells from the runner-up (Holm p < 0.05)")
    return ["; ".join(parts) + ".", *_about_costs(table)]


def _about_costs(table: Table) -> list[str]:
    if all(row.cost is None for row in table.rows):
        return []
    counted = "GFLOP (2 for a multiply-add)"
    text = (
        f"{counted} and ms per image up to that level (ms on {table.timed})"
        if table.timed
        else f"{counted} per image up to that level"
    )
    return [f"{text}; store: its features of train and test images."]


def lines_below(selection: Selection, table: Table, *, whole: bool) -> list[str]:
    """Return everything said under a table; `whole` adds what baselines' levels differ by, calibration, deviations."""
    return [
        *how_to_read(table),
        *statements(selection, baselines=whole),
        *explanations(selection),
        *(calibrations(selection) if whole else ()),
        *table.notes,
        *(deviations(selection) if whole else ()),
    ]


MOST_LINES = 12


def brief_lines(selection: Selection, table: Table, *, width: int, more: str) -> list[str]:
    """Return what must be known of a table in at most 12 lines of `width`: marks, chosen levels, notes; last `more`."""
    marks = "Accuracy in percent, 95 % interval; * the highest level, ** told from the runner-up (p < 0.05)."
    old = "Few-shot: intervals of episodes alone, so nothing is marked or tested; run it again."
    first = [marks, *([old] if of_episodes(selection.records) else [])]
    wanted = list(dict.fromkeys([*first, *choices(selection), *table.notes]))
    shown: list[str] = []
    left = MOST_LINES - _height([f"{more} (99 more notes)"], width)
    for line in wanted:
        if _height([line], width) <= left:
            shown.append(line)
            left -= _height([line], width)
    cut = len(wanted) - len(shown)
    return [*shown, f"{more} ({cut} more note{'s' * (cut > 1)})" if cut else more]


def _height(lines: Sequence[str], width: int) -> int:
    return sum(len(textwrap.wrap(line, width)) for line in lines)


def runner_ups(table: Table) -> list[str]:
    """Return a sentence per model with the test of each column's highest level against its runner-up."""
    lines = []
    for model in dict.fromkeys(row.model for row in table.rows):
        said = [
            f"{title} {against(row, cell)}"
            for column, title in enumerate(table.columns)
            for row in table.rows
            if row.model == model and (cell := row.cells[column]) is not None and cell.standing.test is not None
        ]
        if said:
            lines.append(f"{model}, the highest level against the runner-up: {'; '.join(said)}.")
    return lines


def against(row: Row, cell: Cell) -> str:
    """Return the test of a highest level against its runner-up; nothing where there is none."""
    test = cell.standing.test
    if test is None:
        return ""
    gain, ends = gain_within(test)
    return f"level {row.label} - level {cell.standing.rival} {gain} [{ends}], Holm {p_equals(test.p_holm)}"


def _milliseconds(row: Row) -> str:
    """Return a median with its spread in percent, `12.5 ±3%`; of older records, which have none, the time alone."""
    time, spread = row.milliseconds, row.cost.spread if row.cost is not None else None
    share = f" ±{100 * spread / time:.0f}%" if spread and time else ""
    return "" if time is None else short(time) + share

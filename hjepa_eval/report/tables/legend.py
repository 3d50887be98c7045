"""The legend: short texts of cells and costs, and the lines that say how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa_eval.report.tables.rounding import p_equals, points_within
from hjepa_eval.report.tables.standing import baselines_among
from hjepa_eval.report.tables.statements import calibrations, deviations, explanations, statements
from hjepa_eval.report.tables.table import Cell, Row, Table
from hjepa_eval.results.records import Record

_UNITS = ("B", "kB", "MB", "GB", "TB")


def cost_columns(table: Table) -> dict[str, list[str]]:
    """Return heading -> text of each row, of what a level costs; what no record has measured has no column."""
    costs = [row.cost for row in table.rows]
    columns = {
        "width": [str(row.width) for row in table.rows],
        "tokens": [str(row.tokens) for row in table.rows],
        "GFLOP": ["" if cost is None else _short(cost.gflop) for cost in costs],
        "ms": ["" if cost is None or cost.milliseconds is None else _short(cost.milliseconds) for cost in costs],
        "store": [_size(row.store_bytes) for row in table.rows],
    }
    return {title: texts for title, texts in columns.items() if any(texts)}


def how_to_read(table: Table) -> list[str]:
    """Return the lines under the table that say what its numbers and marks are; only of what is in it."""
    cells = [cell for row in table.rows for cell in row.cells if cell is not None]
    parts = ["Accuracy in percent, with its 95 % interval"]
    if any(cell.delta is not None for cell in cells):
        parts.append("in parentheses the points above the model's last level")
    if any(cell.best for cell in cells):
        parts.append("* marks a model's highest level in that column")
    if any(cell.apart for cell in cells):
        parts.append("** one that a paired test tells from the runner-up (Holm p < 0.05)")
    return ["; ".join(parts) + ".", *_about_costs(table.rows)]


def _about_costs(rows: Sequence[Row]) -> list[str]:
    costs = [row.cost for row in rows if row.cost is not None]
    if not costs:
        return []
    text = "GFLOP (2 for a multiply-add) per image up to that level"
    timed = dict.fromkeys(
        " ".join(filter(None, (cost.device, cost.precision, f"batch {cost.batch}" if cost.batch else "")))
        for cost in costs
        if cost.milliseconds is not None
    )
    if timed:
        text = f"GFLOP (2 for a multiply-add) and ms per image up to that level (ms on {'; '.join(timed)})"
    return [f"{text}; store: its features of train and test images."]


def lines_below(records: Sequence[Record], table: Table, *, whole: bool) -> list[str]:
    """Return everything said under a table; `whole` adds what baselines' levels differ by, calibration, deviations."""
    # What the levels of a baseline differ by is in the whole text; on a terminal it would bury the model's own lines.
    beaten = baselines_among(record.model.name for record in records)
    shown = [record for record in records if whole or record.model.name not in beaten]
    tested = [*statements(shown), *explanations(records)]
    return [
        *how_to_read(table),
        *tested,
        *(calibrations(records) if whole else ()),
        *table.notes,
        *(deviations(records) if whole else ()),
    ]


def runner_ups(table: Table) -> list[str]:
    """Return a sentence per model with the test of each column's highest level against its runner-up."""
    lines = []
    for model in dict.fromkeys(row.model for row in table.rows):
        said = [
            f"{title} {_against(row, cell)}"
            for column, title in enumerate(table.columns)
            for row in table.rows
            if row.model == model and (cell := row.cells[column]) is not None and cell.runner_up is not None
        ]
        if said:
            lines.append(f"{model}, the highest level against the runner-up: {'; '.join(said)}.")
    return lines


def _against(row: Row, cell: Cell) -> str:
    rival = cell.runner_up
    if rival is None:
        return ""
    gain, low, high = points_within(rival.difference, rival.low, rival.high)
    return f"level {row.label} - level {rival.level} {gain} [{low} to {high}], Holm {p_equals(rival.p_holm)}"


def _short(value: float) -> str:
    """Return a cost with three digits: `0.0413`, `1.24`, `17.6`, `1,240`; less than a thousandth as that."""
    if 0 < value < 0.001:
        return "<0.001"
    if value >= 99.95 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 99.5 else f"{size:.2g} {_UNITS[unit]}"

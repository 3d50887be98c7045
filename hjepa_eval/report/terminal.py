"""The table on a terminal, in as many parts as its width takes."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hjepa_eval.report.fitting import groups_that_fit
from hjepa_eval.report.grid import GAP, LEAST_WIDTH, Column, draw, print_below
from hjepa_eval.report.legend import cost_columns, lines_below
from hjepa_eval.report.rounding import interval, percent, points
from hjepa_eval.report.table import Cell, Table, build_table, caption
from hjepa_eval.results import Record

if TYPE_CHECKING:
    from rich.text import Text

_MARK = 2


def terminal(records: Sequence[Record]) -> str:
    """Return the table drawn for a terminal, with colours when stdout is one."""
    from rich.console import Console

    table = build_table(records)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        console.print(caption(table), style="bold", markup=False, highlight=False)
        for part in _parts(table, width):
            console.print(*draw(part, _sections(table)), sep="\n")
        print_below(console, lines_below(records, table, whole=False))
    return capture.get()


def _parts(table: Table, width: int) -> list[list[Column]]:
    """Return the columns, the level's first, in groups that are tables of at most `width`."""
    from rich.text import Text

    names = tuple(Text(f"{row.label}  {row.level_name}") for row in table.rows)
    scores = [
        Column(title, tuple(_shown(row.cells[place]) for row in table.rows))
        for place, title in enumerate(table.columns)
    ]
    costs = [
        Column(title, tuple(Text(text, "dim") for text in texts), right=True)
        for title, texts in cost_columns(table).items()
    ]
    first = Column("level", names)
    # A name longer than half of the line is folded.
    space = width - min(first.width, width // 2) - GAP
    groups = groups_that_fit(
        [column.width + GAP for column in scores], space, block=[column.width + GAP for column in costs]
    )
    return [[first, *([*scores, *costs][place] for place in group)] for group in groups]


def _sections(table: Table) -> list[tuple[str, list[int]]]:
    """Return each model and the places of its rows."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(table.rows):
        found.setdefault(row.model, []).append(place)
    return list(found.items())


def _shown(cell: Cell | None) -> Text:
    """Return a cell in two lines: value, mark and difference from the last level; the interval."""
    from rich.text import Text

    if cell is None:
        return Text()
    delta = "" if cell.delta is None else f" ({points(cell.delta)})"
    value = f"{percent(cell.score.value)}{cell.mark:<{_MARK}}"
    return Text.assemble((value, "bold" if cell.best else "none"), (f"{delta}\n{interval(cell.score)}", "dim"))

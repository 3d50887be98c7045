"""The table on a terminal, in as many parts as its width takes."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa_eval.report.fitting import groups_that_fit
from hjepa_eval.report.legend import cost_columns, lines_below, signed
from hjepa_eval.report.table import Cell, Table, build_table, caption, interval, percent
from hjepa_eval.results import Record

if TYPE_CHECKING:
    from rich.text import Text

# Longer headings are wrapped.
LONG_TITLE = 22
LEAST_WIDTH = 80
_MARK = 2
_GAP = 3


def terminal(records: Sequence[Record]) -> str:
    """Return the table drawn for a terminal, with colours when stdout is one."""
    from rich.console import Console

    table = build_table(records)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        console.print(caption(table), style="bold", markup=False, highlight=False)
        for part in _parts(table, width):
            console.print(*_draw(table, part), sep="\n")
        for line in lines_below(records, table, whole=False):
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    return capture.get()


@dataclass(frozen=True)
class _Column:
    """A column as it is drawn: a text per row, numbers of costs aligned to the right."""

    title: str
    texts: tuple[Text, ...]
    right: bool = False

    @property
    def width(self) -> int:
        """What the longest line takes, a long title in several lines."""
        longest = max((line.cell_len for text in self.texts for line in text.split()), default=0)
        return max(longest, min(len(self.title), LONG_TITLE))


def _parts(table: Table, width: int) -> list[list[_Column]]:
    """Return the columns, the level's first, in groups that are tables of at most `width`."""
    from rich.text import Text

    names = tuple(Text(f"{row.label}  {row.level_name}") for row in table.rows)
    scores = [
        _Column(title, tuple(_shown(row.cells[place]) for row in table.rows))
        for place, title in enumerate(table.columns)
    ]
    costs = [
        _Column(title, tuple(Text(text, "dim") for text in texts), right=True)
        for title, texts in cost_columns(table).items()
    ]
    first = _Column("level", names)
    # A name longer than half of the line is folded.
    space = width - min(first.width, width // 2) - _GAP
    groups = groups_that_fit(
        [column.width + _GAP for column in scores], space, block=[column.width + _GAP for column in costs]
    )
    return [[first, *([*scores, *costs][place] for place in group)] for group in groups]


def _draw(table: Table, columns: Sequence[_Column]) -> Iterator[Any]:
    """Yield a table's heading, and for each model its name, which may be longer than a column, and its levels."""
    from rich.text import Text

    yield _grid(columns, [Text(column.title, "bold") for column in columns])
    yield Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(_widths(columns)) + _GAP * len(columns)))
    for model in dict.fromkeys(row.model for row in table.rows):
        places = [place for place, row in enumerate(table.rows) if row.model == model]
        yield Text(f" {model}", "bold", overflow="fold")
        yield _grid(columns, *([column.texts[place] for column in columns] for place in places))
        yield ""


def _widths(columns: Sequence[_Column]) -> list[int]:
    first, *others = (column.width for column in columns)
    return [min(first, LEAST_WIDTH // 2), *others]


def _grid(columns: Sequence[_Column], *rows: Sequence[Text]) -> Any:
    """Return rows of text under columns of the same widths as in every other grid of these columns."""
    from rich.table import Table as RichTable

    grid = RichTable(box=None, show_header=False, padding=(0, _GAP - 1, 0, 1), pad_edge=True)
    for column, width in zip(columns, _widths(columns), strict=True):
        grid.add_column(width=width, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _shown(cell: Cell | None) -> Text:
    """Return a cell in two lines: value, mark and difference from the last level; the interval."""
    from rich.text import Text

    if cell is None:
        return Text()
    delta = "" if cell.delta is None else f" ({signed(cell.delta)})"
    value = f"{percent(cell.score)}{cell.mark:<{_MARK}}"
    return Text.assemble((value, "bold" if cell.best else "none"), (f"{delta}\n{interval(cell.score)}", "dim"))

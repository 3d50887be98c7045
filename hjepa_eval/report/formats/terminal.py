"""The table on a terminal, in sections and in as many parts as its width takes; no number is cut."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa_eval.report.tables.legend import cost_columns, how_to_read, lines_below
from hjepa_eval.report.tables.rounding import interval, percent, points
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.statements import choices
from hjepa_eval.report.tables.table import Cell, Table, build_table, caption
from hjepa_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def groups_that_fit(sizes: Sequence[int], space: int, *, block: Sequence[int] = ()) -> list[list[int]]:
    """Return the places of columns in groups, each of at most `space`; a column wider than that stands alone.

    Args:
        sizes: of each column.
        space: for the columns of a group.
        block: sizes of columns that follow, their places after the others'; together if `space` holds them all.
    """
    together = sum(block) <= space
    groups: list[list[int]] = []
    left = 0
    for column, size in enumerate([*sizes, *(() if together else block)]):
        if not groups or size > left:
            groups.append([])
            left = space
        groups[-1].append(column)
        left -= size
    rest = list(range(len(sizes), len(sizes) + len(block))) if together else []
    if rest and groups and sum(block) <= left:
        groups[-1] += rest
    elif rest:
        groups.append(rest)
    return groups


LEAST_WIDTH = 80
GAP = 3
# Longer headings are wrapped.
LONG_TITLE = 22


@dataclass(frozen=True)
class Column:
    """A column as it is drawn: a text per row, aligned to the right or to the left."""

    title: str
    texts: tuple[Text, ...]
    right: bool = False

    @property
    def width(self) -> int:
        """What the longest line takes, a long title in several lines."""
        longest = max((line.cell_len for text in self.texts for line in text.split()), default=0)
        return max(longest, min(len(self.title), LONG_TITLE))


def draw(
    columns: Sequence[Column],
    sections: Sequence[tuple[str, Sequence[int]]],
    *,
    gap: int = GAP,
    first: int = LEAST_WIDTH // 2,
) -> Iterator[Any]:
    """Yield what rich prints of a table: the heading, and each section's name over the rows with these places.

    The name may be longer than the first column, which is folded at `first`: half of a line.
    """
    from rich.text import Text

    widths = [min(columns[0].width, first), *(column.width for column in columns[1:])]
    yield _grid(columns, widths, gap, [[Text(column.title, "bold") for column in columns]])
    yield Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + gap * len(columns)))
    for name, places in sections:
        yield Text(f" {one_line(name)}", "bold", overflow="fold")
        yield _grid(columns, widths, gap, [[column.texts[place] for column in columns] for place in places])
        yield ""


def print_below(console: Console, lines: Iterable[str]) -> None:
    """Print what is said under a table: on a terminal broken between words, elsewhere whole lines for other programs.

    A terminal's own line break may be anywhere in a word.
    """
    shown = sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if shown else None
    for line in lines:
        console.print(one_line(line), style="dim", markup=False, highlight=False, soft_wrap=not shown, width=width)


def _grid(columns: Sequence[Column], widths: Sequence[int], gap: int, rows: Sequence[Sequence[Text]]) -> Any:
    from rich.table import Table

    grid = Table(box=None, show_header=False, padding=(0, gap - 1, 0, 1), pad_edge=True)
    for column, width in zip(columns, widths, strict=True):
        grid.add_column(width=width, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


_MARK = 2
_NARROW_GAP = 2
# Of prose above a short table.
MOST_LINES = 10


def terminal(selection: Selection) -> str:
    """Return the table drawn for a terminal, with colours when stdout is one."""
    from rich.console import Console

    table = build_table(selection)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        console.print(one_line(caption(table)), style="bold", markup=False, highlight=False)
        for part in _parts(table, width):
            console.print(*draw(part, _sections(table)), sep="\n")
        print_below(console, lines_below(selection, table, whole=False))
    return capture.get()


def brief(selection: Selection, *, more: str) -> str:
    """Return what a screen holds: a few lines first, then the table of accuracies, without what the rest is for.

    One model with two baselines fits 80 columns and 24 lines. Where there is room beside the scores, costs stand there.

    Args:
        selection: what is shown.
        more: where the rest is said, to end the lines above the table.
    """
    from rich.console import Console
    from rich.text import Text

    table = build_table(selection)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    lines = [how_to_read(table, deltas=False)[0], *choices(selection), *table.notes]
    with console.capture() as capture:
        for line in _few(lines, width, more=more):
            console.print(Text(one_line(line), "dim"), highlight=False)
        console.print(one_line(caption(table)), style="bold", markup=False, highlight=False)
        for part in _narrow_parts(table, width):
            for line in draw(part, _sections(table), gap=_NARROW_GAP):
                if line:  # No empty lines between models.
                    console.print(line)
    return capture.get()


def _few(lines: Sequence[str], width: int, *, more: str) -> list[str]:
    """Return the first lines that take no more than `MOST_LINES` of a screen, and what there is more."""
    kept, left = [], MOST_LINES - 1
    for line in lines:
        left -= len(textwrap.wrap(line, width)) or 1
        if left < 0:
            break
        kept.append(line)
    return [*kept, more]


def _narrow_parts(table: Table, width: int) -> list[list[Column]]:
    """Return the columns of scores without differences, and those of costs where they stand beside them."""
    from rich.text import Text

    first = Column("level", tuple(Text(f"{row.label}  {one_line(row.level_name)}") for row in table.rows))
    scores = [
        Column(one_line(title), tuple(_shown(row.cells[place], delta=False) for row in table.rows))
        for place, title in enumerate(table.columns)
    ]
    costs = [
        Column(title, tuple(Text(text, "dim") for text in texts), right=True)
        for title, texts in cost_columns(table).items()
    ]
    space = width - min(first.width, width // 2) - _NARROW_GAP
    sizes = [[column.width + _NARROW_GAP for column in columns] for columns in (scores, costs)]
    if sum(map(sum, sizes)) <= space:
        return [[first, *scores, *costs]]
    return [[first, *(scores[place] for place in group)] for group in groups_that_fit(sizes[0], space)]


def _parts(table: Table, width: int) -> list[list[Column]]:
    """Return the columns, the level's first, in groups that are tables of at most `width`."""
    from rich.text import Text

    names = tuple(Text(f"{row.label}  {one_line(row.level_name)}") for row in table.rows)
    scores = [
        Column(one_line(title), tuple(_shown(row.cells[place]) for row in table.rows))
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


def _shown(cell: Cell | None, *, delta: bool = True) -> Text:
    """Return a cell in two lines: value, mark and, with `delta`, difference from the last level; the interval."""
    from rich.text import Text

    if cell is None:
        return Text()
    gain = f" ({points(cell.standing.delta)})" if delta and cell.standing.delta is not None else ""
    value = f"{percent(cell.score.value)}{cell.mark:<{_MARK}}"
    return Text.assemble((value, "bold" if cell.standing.best else "none"), (f"{gain}\n{interval(cell.score)}", "dim"))

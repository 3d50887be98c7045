"""The table on a terminal, in sections and in as many parts as its width takes; no number is cut."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa_eval.report.tables.legend import brief_lines, cost_columns, lines_below
from hjepa_eval.report.tables.rounding import interval, percent, points
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.standing import fallen_ranks
from hjepa_eval.report.tables.table import Cell, Table, build_table, caption, level_notes
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
    apart: bool = True,
) -> Iterator[Any]:
    """Yield what rich prints of a table: the heading, and each section's name over the rows with these places.

    The name may be longer than the first column, which is folded at `first`: half of a line.
    Sections stand `apart` by a line, or one below the other.
    """
    from rich.text import Text

    widths = [min(columns[0].width, first), *(column.width for column in columns[1:])]
    yield _grid(columns, widths, gap, [[Text(column.title, "bold") for column in columns]])
    yield Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + gap * len(columns)))
    for name, places in sections:
        yield Text(f" {one_line(name)}", "bold", overflow="fold")
        yield _grid(columns, widths, gap, [[column.texts[place] for column in columns] for place in places])
        if apart:
            yield ""
    if not apart:
        yield ""


def print_below(console: Console, lines: Iterable[str], *, wrapped: bool = False) -> None:
    """Print what is said under a table: on a terminal broken between words, elsewhere whole lines for other programs.

    A terminal's own line break may be anywhere in a word.
    """
    shown = wrapped or sys.stdout.isatty()
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
_CLOSE = 1
# So many signs of a level's name are kept beside the scores.
_SHORTEST_NAME = 8


def terminal(selection: Selection) -> str:
    """Return everything that can be said, the costs and, last, the accuracies, drawn for a terminal or a log."""
    return _drawn(selection, lambda table, width: lines_below(selection, table, whole=True), short=False)


def bare(selection: Selection) -> str:
    """Return the tables, and of all notes those that make a number of theirs doubtful."""
    doubts = [*fallen_ranks(selection.records), *level_notes(selection.records)]
    return _drawn(selection, lambda table, width: doubts, short=False)


def brief(selection: Selection, *, more: str) -> str:
    """Return what a screen holds: at most 12 lines of prose, then the table of accuracies.

    One model with two baselines fits 80 columns and 24 lines. Where there is room beside the scores, costs stand there.

    Args:
        selection: what is shown.
        more: where the rest is said, to end the lines above the table.
    """
    return _drawn(selection, lambda table, width: brief_lines(selection, table, width=width, more=more), short=True)


def _drawn(selection: Selection, said: Callable[[Table, int], list[str]], *, short: bool) -> str:
    from rich.console import Console

    table = build_table(selection)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        print_below(console, said(table, width), wrapped=short)
        console.print(one_line(caption(table)), style="bold", markup=False, highlight=False)
        for part, gap in _parts(table, width, short=short):
            rest = width - gap - sum(column.width + gap for column in part[1:])
            first = max(_SHORTEST_NAME, min(width // 2, rest))
            console.print(*draw(part, _sections(table), gap=gap, first=first, apart=not short), sep="\n")
    return capture.get()


def _parts(table: Table, width: int, *, short: bool) -> list[tuple[list[Column], int]]:
    """Return the columns, the level's first, in groups that are tables of at most `width`, each with its gap.

    The costs stand beside the scores where a line holds all, else before them; in short not even there.
    """
    from rich.text import Text

    names = [f"{row.label}  {one_line(row.level_name)}" for row in table.rows]
    first = Column("level", tuple(map(Text, names)))
    cells = [[row.cells[place] for row in table.rows] for place, _ in enumerate(table.columns)]
    texts = [_close(column) if short else [_shown(cell) for cell in column] for column in cells]
    scores = [Column(one_line(title), tuple(shown)) for title, shown in zip(table.columns, texts, strict=True)]
    costs = [
        Column(title, tuple(Text(text, "dim") for text in texts), right=True)
        for title, texts in cost_columns(table).items()
    ]
    gap = next((wide for wide in (GAP, _NARROW_GAP) if _fits(scores, width, wide)), _CLOSE if short else GAP)
    # A name longer than half of the line is folded.
    space = width - min(first.width, width // 2) - gap
    if sum(column.width + gap for column in [*scores, *costs]) <= space:
        return [([first, *scores, *costs], gap)]
    before = [] if short else [([first, *costs], GAP)]
    left = width - gap - sum(column.width + gap for column in scores)
    if short and _SHORTEST_NAME <= left < first.width:
        shorter = Column("level", tuple(Text(_cut(name, left)) for name in names))
        return [([shorter, *scores], gap)]
    groups = groups_that_fit([column.width + gap for column in scores], space)
    return [*before, *(([first, *(scores[place] for place in group)], gap) for group in groups)]


def _fits(scores: Sequence[Column], width: int, gap: int) -> bool:
    return _SHORTEST_NAME + gap + sum(column.width + gap for column in scores) <= width


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


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
    delta = "" if cell.standing.delta is None else f" ({points(cell.standing.delta)})"
    value = f"{percent(cell.score.value)}{cell.mark:<{_MARK}}"
    return Text.assemble((value, "bold" if cell.standing.best else "none"), (f"{delta}\n{interval(cell.score)}", "dim"))


def _close(cells: Sequence[Cell | None]) -> list[Text]:
    """Return the cells of a column, each on one line: value, mark, interval."""
    from rich.text import Text

    there = [cell for cell in cells if cell is not None]
    value = max(len(percent(cell.score.value)) for cell in there)
    mark = max(len(cell.mark) for cell in there)
    return [
        Text()
        if cell is None
        else Text.assemble(
            (f"{percent(cell.score.value):>{value}}{cell.mark:<{mark}}", "bold" if cell.standing.best else "none"),
            (f" {interval(cell.score)}", "dim"),
        )
        for cell in cells
    ]

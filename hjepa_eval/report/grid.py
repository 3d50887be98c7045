"""Tables on a terminal in sections: a line of its own over each, columns of one width through all of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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


def draw(columns: Sequence[Column], sections: Sequence[tuple[str, Sequence[int]]], *, gap: int = GAP) -> Iterator[Any]:
    """Yield what rich prints of a table: the heading, and each section's name over the rows with these places.

    The name may be longer than the first column, which is folded at half of a line.
    """
    from rich.text import Text

    widths = [min(columns[0].width, LEAST_WIDTH // 2), *(column.width for column in columns[1:])]
    yield _grid(columns, widths, gap, [[Text(column.title, "bold") for column in columns]])
    yield Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + gap * len(columns)))
    for name, places in sections:
        yield Text(f" {name}", "bold", overflow="fold")
        yield _grid(columns, widths, gap, [[column.texts[place] for column in columns] for place in places])
        yield ""


def print_below(console: Console, lines: Iterable[str]) -> None:
    """Print what is said under a table: on a terminal broken between words, elsewhere whole lines for other programs.

    A terminal's own line break may be anywhere in a word.
    """
    shown = sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if shown else None
    for line in lines:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=not shown, width=width)


def _grid(columns: Sequence[Column], widths: Sequence[int], gap: int, rows: Sequence[Sequence[Text]]) -> Any:
    from rich.table import Table

    grid = Table(box=None, show_header=False, padding=(0, gap - 1, 0, 1), pad_edge=True)
    for column, width in zip(columns, widths, strict=True):
        grid.add_column(width=width, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid

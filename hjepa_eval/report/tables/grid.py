"""Grids: tables of short texts with a colour's strength and words behind each cell, which every format draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.results.profiles import LevelProfile


@dataclass(frozen=True)
class GridCell:
    """One number as text.

    Attributes:
        text: the number.
        below: what stands smaller below it.
        mark: `*` for the highest of a line, `**` for one that a paired test tells apart.
        strength: of its colour, in [0, 1]; None for a cell without one.
        about: all that is known of it, in words.
    """

    text: str
    below: str = ""
    mark: str = ""
    strength: float | None = None
    about: str = ""


@dataclass(frozen=True)
class GridLine:
    """A line of a grid; `reads` says smaller what its numbers are, `cells` has None where there is nothing."""

    name: str
    reads: str
    cells: tuple[GridCell | None, ...]


@dataclass(frozen=True)
class Grid:
    """One table of a profile.

    Attributes:
        title: its heading.
        lede: what its numbers are.
        corner: heading of the names.
        columns: headings of the cells.
        levels: of each column the number of its level, or nothing.
        lines: from top to bottom.
        notes: what a reader must know besides.
        folded: whether it is for reference, and may be folded away.
    """

    title: str
    lede: str
    corner: str
    columns: tuple[str, ...]
    levels: tuple[str, ...]
    lines: tuple[GridLine, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


def column_of(level: LevelProfile) -> str:
    """Return the heading of a level's column."""
    return "joined" if level.fused else f"level {level.level}"


def level_grid(
    levels: Sequence[LevelProfile],
    lines: Sequence[GridLine],
    *,
    title: str,
    lede: str,
    corner: str,
    notes: Sequence[str] = (),
    folded: bool = False,
) -> Grid | None:
    """Return a grid with a column per level; None without lines."""
    if not lines:
        return None
    numbers = tuple("joined" if level.fused else str(level.level) for level in levels)
    return Grid(title, lede, corner, tuple(map(column_of, levels)), numbers, tuple(lines), tuple(notes), folded)

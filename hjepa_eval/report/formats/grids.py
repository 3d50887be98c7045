"""Grids as Markdown, as LaTeX and as text for a terminal: tables of short texts, such as profiles and tokens have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hjepa_eval.report.formats.latex import heading, notes
from hjepa_eval.report.formats.markdown import table_lines
from hjepa_eval.report.formats.terminal import groups_that_fit
from hjepa_eval.report.tables.grid import Grid, GridCell
from hjepa_eval.results.text import latex_text, markdown_text, one_line

# Characters beside the names in the line of an article, and between columns.
_ROOM = 54
_GAP = 2


def markdown_grid(grid: Grid) -> list[str]:
    """Return the lines of a grid's table, and what must be known of it as a list below."""
    header = [markdown_text(grid.corner), *map(markdown_text, grid.columns)]
    rows = [[_named(line.name, line.reads), *map(_markdown_cell, line.cells)] for line in grid.lines]
    notes = [f"- {markdown_text(line)}" for line in (grid.lede, *grid.notes)]
    return [*table_lines(header, rows, left=1), "", *notes, ""]


def latex_grid(grid: Grid, about: str, name: str, last: Sequence[str]) -> list[str]:
    """Return a grid as a LaTeX table.

    Args:
        grid: the numbers.
        about: its caption.
        name: its label, after `tab:`.
        last: lines below what the grid says of itself.
    """
    return [
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{latex_text(about)}}}",
        rf"  \label{{tab:{name}}}",
        *_tabulars(grid),
        *notes([grid.lede, *grid.notes, *last]),
        r"\end{table}",
    ]


def text_grid(grid: Grid) -> list[str]:
    """Return the lines of a grid for a terminal: its title, a line per name, an interval behind each number."""
    names = [one_line(f"{line.name} {line.reads}".strip()) for line in grid.lines]
    cells = [["" if cell is None else _plain(cell) for cell in line.cells] for line in grid.lines]
    columns = [
        max(len(title), *(len(line[place]) for line in cells)) + _GAP for place, title in enumerate(grid.columns)
    ]
    first = max(len(grid.corner), *map(len, names))
    lines = [one_line(grid.title), grid.corner.ljust(first) + "".join(map(str.rjust, grid.columns, columns))]
    lines += [
        name.ljust(first) + "".join(map(str.rjust, line, columns)) for name, line in zip(names, cells, strict=True)
    ]
    return [*lines, *(one_line(line) for line in (grid.lede, *grid.notes)), ""]


def _plain(cell: GridCell) -> str:
    return one_line(f"{cell.text}{cell.mark}" + (f" [{cell.below}]" if cell.below else ""))


def _named(name: str, reads: str) -> str:
    return f"{markdown_text(name)} ({markdown_text(reads)})" if reads else markdown_text(name)


def _markdown_cell(cell: GridCell | None) -> str:
    if cell is None:
        return ""
    shown = f"{markdown_text(cell.text)}{markdown_text(cell.mark)}"
    below = f" ({markdown_text(cell.below)})" if cell.below else ""
    return f"{f'**{shown}**' if cell.mark else shown}{below}"


def _tabulars(grid: Grid) -> Iterator[str]:
    """Yield the lines of a tabular per group of columns."""
    for place, columns in enumerate(_groups(grid)):
        yield from [r"  \par\medskip"] * bool(place)
        yield from (f"  {line}" for line in _tabular(grid, columns))


def _groups(grid: Grid) -> list[list[int]]:
    """Return the columns in groups that fit into a line."""
    shown = [[cell for line in grid.lines if (cell := line.cells[place])] for place in range(len(grid.columns))]
    sizes = [
        _GAP + max(len(title), *(len(f"{cell.text}{cell.mark} {cell.below}") for cell in cells), 0)
        for title, cells in zip(grid.columns, shown, strict=True)
    ]
    return groups_that_fit(sizes, _ROOM)


def _tabular(grid: Grid, columns: Sequence[int]) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{p{{0.3\linewidth}}{'r' * len(columns)}}}"
    yield r"  \toprule"
    yield rf"  {' & '.join(map(heading, (grid.corner, *(grid.columns[place] for place in columns))))} \\"
    yield r"  \midrule"
    for line in grid.lines:
        reads = rf" {{\scriptsize {latex_text(line.reads)}}}" if line.reads else ""
        # In braces: a name that begins with [ or * would be read as an option of the line's end before it.
        cells = " & ".join(_latex_cell(line.cells[place]) for place in columns)
        yield rf"  {{{latex_text(line.name)}{reads}}} & {cells} \\"
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def _latex_cell(cell: GridCell | None) -> str:
    if cell is None:
        return ""
    shown = latex_text(cell.text)
    marked = rf"\textbf{{{shown}}}$^{{{cell.mark}}}$" if cell.mark else shown
    return marked + (rf" {{\scriptsize {latex_text(cell.below)}}}" if cell.below else "")

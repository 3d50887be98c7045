"""The table as Markdown, as GitHub renders it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hjepa_eval.report.tables.legend import cost_columns, lines_below
from hjepa_eval.report.tables.rounding import interval, percent, points
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.statements import compared_table
from hjepa_eval.report.tables.table import Cell, build_table, caption
from hjepa_eval.results.text import markdown_text


def markdown(selection: Selection) -> str:
    """Return a selection as a Markdown table with caption and notes, and a table of all paired comparisons."""
    table = build_table(selection)
    costs = cost_columns(table)
    header = ["model", "level", "reads", *map(markdown_text, table.columns), *costs]
    rows = [
        [
            markdown_text(row.model),
            row.label,
            markdown_text(row.level_name),
            *map(_cell, row.cells),
            *(texts[place] for texts in costs.values()),
        ]
        for place, row in enumerate(table.rows)
    ]
    first, *more = lines_below(selection, table, whole=True)
    lines = [f"**{markdown_text(caption(table))}**", "", *table_lines(header, rows, left=3), "", markdown_text(first)]
    return "\n".join([*lines, *(f"- {markdown_text(line)}" for line in more), *_comparisons(selection)]) + "\n"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Return the lines of a table; the first `left` columns are aligned to the left, the others to the right."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def fenced(text: str) -> str:
    """Return a text as a block of code, line by line as it is; the fence is longer than any backticks within."""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in ["", *re.findall("`+", text)]))
    return f"{fence}\n{text}\n{fence}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mark, delta = markdown_text(cell.mark), "" if cell.standing.delta is None else f" ({points(cell.standing.delta)})"
    shown = f"{percent(cell.score.value)}{mark}"
    return f"{f'**{shown}**' if cell.standing.best else shown} [{interval(cell.score)}]{delta}"


def _comparisons(selection: Selection) -> list[str]:
    """Return the lines of a table of all paired comparisons; none without comparisons."""
    header, *rows = compared_table(selection)
    if not rows:
        return []
    lines = table_lines(header, [[markdown_text(cell) for cell in row] for row in rows], left=len(header))
    return ["", "**Paired comparisons**, in points of accuracy", "", *lines]

"""The picture: accuracy by level, a panel per probe, a line per model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.report.drawing import literal_text, page_style
from hjepa_eval.report.figures.canvas import canvas
from hjepa_eval.report.figures.levels import draw_level_panel, legend_lines
from hjepa_eval.report.output import write_output
from hjepa_eval.report.palette import drawn
from hjepa_eval.report.table import Table, build_table, caption
from hjepa_eval.results import Record

_PANEL = 250


@page_style()
def draw_levels(records: Sequence[Record]) -> Any:
    """Return a matplotlib figure of the records' table; models with a single level are drawn as a dashed line.

    Raises:
        ResultError: the records do not belong in one table.
    """
    table = build_table(records)
    figure, panels = canvas(1, len(table.columns), width=_PANEL * len(table.columns) + 45, height=290)
    for column, (panel, title) in enumerate(zip(panels[0], table.columns, strict=True)):
        draw_level_panel(panel, table, column)
        panel.set_title(title)
    panels[0][0].set_ylabel("accuracy in percent, 95 % interval")
    names, lines = zip(*legend_lines(table), strict=True)
    figure.legend(lines, names, loc="outside lower center", ncols=min(3, len(names)))
    figure.suptitle(caption(table))
    return figure


def write_plot(records: Sequence[Record], path: Path) -> Path:
    """Write the picture as PNG and return its path.

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    content = io.BytesIO()
    figure = draw_levels(records)
    with literal_text(figure):
        figure.savefig(content, format="png", dpi=130, facecolor=drawn("paper"))
    return write_output(path, content.getvalue())


def describe_plot(table: Table) -> str:
    """Return the alternative text of the picture."""
    best = []
    for column, title in enumerate(table.columns):
        rows = [row for row in table.rows if row.cells[column] is not None]
        top = max(rows, key=lambda row: row.cells[column].score.value)  # type: ignore[union-attr]
        best.append(f"{title}: highest {top.model} {'levels joined' if top.joined else f'level {top.level}'}")
    return f"Accuracy by level on {caption(table)}. " + "; ".join(best)

"""The picture: accuracy by level, a panel per probe, a line per model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.report.formats import caption
from hjepa_eval.report.table import Row, Table, build_table
from hjepa_eval.results import Record

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_levels(records: Sequence[Record]) -> Any:
    """Return a matplotlib figure of the records' table; models with a single level are drawn as a dashed line.

    Raises:
        ResultError: the records do not belong in one table.
    """
    from matplotlib.figure import Figure

    table = build_table(records)
    models = list(dict.fromkeys(row.model for row in table.rows))
    figure = Figure(figsize=(3.4 * len(table.columns) + 0.6, 3.9), layout="constrained")
    panels = figure.subplots(1, len(table.columns), squeeze=False)[0]
    most = max(row.level for row in table.rows if not row.joined)
    for column, (panel, title) in enumerate(zip(panels, table.columns, strict=True)):
        for place, model in enumerate(models):
            rows = [row for row in table.rows if row.model == model and row.cells[column] is not None]
            _draw_model(panel, rows, column, model, COLOURS[place % len(COLOURS)], place - len(models) / 2)
        panel.set_title(title, parse_math=False)
        panel.set_xlabel("level (0 is the finest)")
        panel.set_xticks(range(most + 1))
        panel.set_xlim(-0.4, most + 0.4)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("accuracy in percent, 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    figure.suptitle(caption(table), parse_math=False)
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)
    return figure


def _draw_model(panel: Any, rows: Sequence[Row], column: int, model: str, colour: str, shift: float) -> None:
    for row in rows:
        if row.joined and (cell := row.cells[column]) is not None:
            panel.axhline(100 * cell.score.value, color=colour, linestyle=":", label=f"{model}, levels joined")
    rows = [row for row in rows if not row.joined]
    scores = [cell.score for row in rows if (cell := row.cells[column]) is not None]
    if not scores:
        return
    if len(scores) == 1:
        panel.axhline(100 * scores[0].value, color=colour, linestyle="--", label=model)
        panel.axhspan(100 * scores[0].low, 100 * scores[0].high, color=colour, alpha=0.12, linewidth=0)
        return
    values = [100 * score.value for score in scores]
    low = [100 * (score.value - score.low) for score in scores]
    high = [100 * (score.high - score.value) for score in scores]
    levels = [row.level + 0.04 * shift for row in rows]
    panel.errorbar(levels, values, yerr=[low, high], color=colour, marker="o", capsize=3, label=model)


def write_plot(records: Sequence[Record], path: Path) -> Path:
    """Write the picture as PNG and return its path.

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    content = io.BytesIO()
    draw_levels(records).savefig(content, format="png", dpi=130)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}") from None
    return path


def describe_plot(table: Table) -> str:
    """Return the alternative text of the picture."""
    best = []
    for column, title in enumerate(table.columns):
        rows = [row for row in table.rows if row.cells[column] is not None]
        top = max(rows, key=lambda row: row.cells[column].score.value)  # type: ignore[union-attr]
        best.append(f"{title}: highest {top.model} {'levels joined' if top.joined else f'level {top.level}'}")
    return f"Accuracy by level on {caption(table)}. " + "; ".join(best)

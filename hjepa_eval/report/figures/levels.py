"""Over the levels: accuracy, a panel per column of the table, a line per model; and what against where, on one axis."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.report.figures.drawing import drawn, literal_text, page_style, series, variable
from hjepa_eval.report.figures.svg import Picture, canvas, inline_svg, line_style, listed, shortened
from hjepa_eval.report.formats.named import write_output
from hjepa_eval.report.tables.curves import Curve
from hjepa_eval.report.tables.rounding import percent
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.table import Row, Table, build_table, caption
from hjepa_eval.results.records import Score

# Levels of several models lie beside each other, so that their intervals do not hide one another.
_SHIFT = 0.04
# Ends the name of the line of a model's levels joined.
JOINED = ", levels joined"


def models_of(table: Table) -> list[str]:
    """Return the names of the table's models, each once; a model's place decides its colour in every figure."""
    return list(dict.fromkeys(row.model for row in table.rows))


def legend(table: Table) -> list[tuple[str, str]]:
    """Return each model with its colour in all pictures of the table, as `var(--series-1)`."""
    return [(model, variable(series(place))) for place, model in enumerate(models_of(table))]


def legend_lines(table: Table) -> list[tuple[str, Any]]:
    """Return name and matplotlib line of each model in any column, and of its levels joined, as the panels draw them.

    A panel's own legend would lack names that begin with `_`, which matplotlib takes for its own.
    """
    from matplotlib.lines import Line2D

    found = []
    for place, model in enumerate(models_of(table)):
        rows = [row for row in table.rows if row.model == model]
        style = line_style(place)
        several = any(
            sum(_score(r, c) is not None for r in rows if not r.joined) > 1 for c in range(len(table.columns))
        )
        if any(not row.joined for row in rows):
            found.append((model, Line2D([], [], **style if several else {"color": style["color"], "linestyle": "--"})))
        if any(row.joined for row in rows):
            found.append((model + JOINED, Line2D([], [], color=style["color"], linestyle=":")))
    return found


def level_pictures(table: Table, *, prefix: str = "levels-") -> list[Picture]:
    """Return a picture per column: accuracy in percent by level with intervals; see `draw_level_panel`."""
    return [
        inline_svg(draw_column(table, column), title=title, text=_describe(table, column), prefix=f"{prefix}{column}-")
        for column, title in enumerate(table.columns)
    ]


@page_style()
def draw_column(table: Table, column: int) -> Any:
    """Return a matplotlib figure of one column of the table."""
    figure, panels = canvas()
    panel = panels[0, 0]
    draw_level_panel(panel, table, column)
    panel.set_ylabel("accuracy in percent")
    return figure


def draw_level_panel(panel: Any, table: Table, column: int) -> None:
    """Draw a column into a matplotlib panel: a line per model with its intervals.

    A model with one level is a dashed line across with its interval as a band, levels joined are a dotted one; the
    label below says so where there are any.
    """
    models = models_of(table)
    across = set()
    for place, model in enumerate(models):
        rows = [row for row in table.rows if row.model == model and row.cells[column] is not None]
        across |= _draw_model(panel, rows, column, place, place - (len(models) - 1) / 2)
    most = max((row.level for row in table.rows if not row.joined), default=0)
    panel.set_xticks(range(most + 1))
    panel.set_xlim(-0.4, most + 0.4)
    panel.grid(axis="y")
    meaning = [words for style, words in (("--", "dashed: one level"), (":", "dotted: joined")) if style in across]
    panel.set_xlabel("\n".join(["level (0 is the finest)", *([", ".join(meaning)] if meaning else [])]))


def _draw_model(panel: Any, rows: Sequence[Row], column: int, place: int, shift: float) -> set[str]:
    """Draw one model and return the styles of the lines that go across."""
    single = [(row.level, score) for row in rows if not row.joined and (score := _score(row, column))]
    joined = [score for row in rows if row.joined and (score := _score(row, column))]
    style = line_style(place)
    across = {":"} if joined else set()
    for score in joined:
        _draw_across(panel, score, style["color"], ":", rows[0].model + JOINED)
    if len(single) == 1:
        _draw_across(panel, single[0][1], style["color"], "--", rows[0].model)
        return across | {"--"}
    if single:
        values = [100 * score.value for _, score in single]
        low = [100 * (score.value - score.low) for _, score in single]
        high = [100 * (score.high - score.value) for _, score in single]
        levels = [level + _SHIFT * shift for level, _ in single]
        panel.errorbar(levels, values, yerr=[low, high], elinewidth=1.2, capsize=3, label=rows[0].model, **style)
    return across


def _draw_across(panel: Any, score: Score, colour: str, style: str, name: str) -> None:
    panel.axhline(100 * score.value, color=colour, linestyle=style, label=name)
    panel.axhspan(100 * score.low, 100 * score.high, color=colour, alpha=0.12, linewidth=0)


def _score(row: Row, column: int) -> Score | None:
    cell = row.cells[column]
    return None if cell is None else cell.score


def _describe(table: Table, column: int) -> str:
    """Return every number of a column in words, model by model."""
    sentences = []
    for model in models_of(table):
        found = [(row, score) for row in table.rows if row.model == model and (score := _score(row, column))]
        each = [
            f"{'levels joined' if row.joined else f'level {row.level}'} {percent(score.value)} "
            f"({percent(score.low)} to {percent(score.high)})"
            for row, score in found
        ]
        if each:
            sentences.append(f"{model}: {listed(each)}.")
    return f"{table.columns[column]} on {caption(table)}: accuracy in percent, 95 % interval. {' '.join(sentences)}"


_PANEL = 250


@page_style()
def draw_levels(selection: Selection) -> Any:
    """Return a matplotlib figure of a selection's table; models with a single level are drawn as a dashed line."""
    table = build_table(selection)
    figure, panels = canvas(1, len(table.columns), width=_PANEL * len(table.columns) + 45, height=290)
    for column, (panel, title) in enumerate(zip(panels[0], table.columns, strict=True)):
        draw_level_panel(panel, table, column)
        panel.set_title(title)
    panels[0][0].set_ylabel("accuracy in percent, 95 % interval")
    names, lines = zip(*legend_lines(table), strict=True)
    figure.legend(lines, names, loc="outside lower center", ncols=min(3, len(names)))
    figure.suptitle(caption(table))
    return figure


def write_plot(selection: Selection, path: Path) -> Path:
    """Write the picture as PNG and return its path.

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    content = io.BytesIO()
    figure = draw_levels(selection)
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


# R2 may lie far below 0, where nothing is left to see.
_LOWEST = -10.0
_SHIFT = 0.05


def what_where_picture(curves: Sequence[Curve], *, title: str, prefix: str) -> Picture:
    """Return the picture of curves that share an axis: 0 is chance, 100 all, with their 95 % intervals."""
    return inline_svg(draw_curves(curves), title=title, text=f"{title}. {_describe_curves(curves)}", prefix=prefix)


@page_style()
def draw_curves(curves: Sequence[Curve]) -> Any:
    """Return a matplotlib figure of curves; what lies far below chance is drawn at the lower edge."""
    figure, panels = canvas(height=300)
    panel = panels[0, 0]
    for place, curve in enumerate(curves):
        levels = [point.level + _SHIFT * (place - (len(curves) - 1) / 2) for point in curve.points]
        value, low, high = (
            [max(_LOWEST, 100 * getattr(point, name)) for point in curve.points] for name in ("share", "low", "high")
        )
        ends = [
            [most - least for most, least in zip(value, low, strict=True)],
            [most - least for most, least in zip(high, value, strict=True)],
        ]
        panel.errorbar(levels, value, yerr=ends, elinewidth=1.2, capsize=3, **line_style(place))
    numbers = sorted({point.level for curve in curves for point in curve.points})
    panel.set_xticks(numbers)
    panel.set_xlim(numbers[0] - 0.4, numbers[-1] + 0.4)
    panel.set_ylim(_LOWEST - 2, 102)
    panel.grid(axis="y")
    panel.set_xlabel("level (0 is the finest)")
    panel.set_ylabel("percent of the way from chance")
    lines = [container.lines[0] for container in panel.containers]
    names = [shortened(curve.factor) for curve in curves]
    figure.legend(lines, names, loc="outside upper center", ncols=min(2, len(names)))
    return figure


def _describe_curves(curves: Sequence[Curve]) -> str:
    said = []
    for curve in curves:
        numbers = [
            f"level {point.level} {percent(point.share)} ({percent(point.low)} to {percent(point.high)})"
            for point in curve.points
        ]
        said.append(f"{curve.factor}: {listed(numbers)}.")
    return f"Percent of the way from chance to all, 95 % interval. {' '.join(said)}"

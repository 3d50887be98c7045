"""Accuracy against cost: what the finer half of the work buys, a line per model from level to level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hjepa_eval.report.figures.drawing import page_style
from hjepa_eval.report.figures.levels import models_of
from hjepa_eval.report.figures.svg import Picture, canvas, inline_svg, line_style, listed
from hjepa_eval.report.tables.costs import conditions as measured_on
from hjepa_eval.report.tables.rounding import percent
from hjepa_eval.report.tables.table import Row, Table
from hjepa_eval.results.records import Score

Measure = Literal["gflop", "milliseconds"]
UNITS: dict[Measure, str] = {"gflop": "GFLOP per image", "milliseconds": "ms per image"}
# Costs that lie further apart than this factor have a logarithmic axis.
WIDE = 5.0
# A model of one level that is cheaper than all of several by this factor is as good as free.
FREE = 20.0
_ROOMY = 60.0


@dataclass(frozen=True)
class _Point:
    """A level of a model: what it costs and what it scores; `place` is the model's among the table's."""

    model: str
    place: int
    label: str
    cost: float
    score: Score


def cost_pictures(table: Table, measure: Measure, *, prefix: str = "cost-") -> list[Picture]:
    """Return a picture per column of accuracy against cost; none where no level has that cost.

    Times measured on different devices, at different precisions or in different batches are not compared: each of those
    has a picture of its own. Models without the cost are left out, and the text says so.
    """
    pictures = []
    for column, title in enumerate(table.columns):
        for number, condition in enumerate(conditions(table, measure)):
            points = _points(table, column, measure, condition)
            if not points:
                continue
            found = {point.model for point in points}
            absent = [row.model for row in table.rows if row.cells[column] and row.model not in found]
            pictures.append(
                inline_svg(
                    draw_cost(points, measure),
                    title=f"{title}{f', {condition}' if condition else ''}",
                    text=_describe(points, measure, title, condition, list(dict.fromkeys(absent))),
                    prefix=f"{prefix}{measure}-{column}-{number}-",
                )
            )
    return pictures


def conditions(table: Table, measure: Measure) -> list[str]:
    """Return how the table's costs were measured, such as `cpu, bf16, batch 64`; for GFLOP that does not matter."""
    return list(dict.fromkeys(_condition(row, measure) for row in table.rows if _cost(row, measure) is not None))


def _cost(row: Row, measure: Measure) -> float | None:
    if row.cost is None:
        return None
    return row.cost.gflop if measure == "gflop" else row.cost.milliseconds


def _condition(row: Row, measure: Measure) -> str:
    return "" if row.cost is None or measure == "gflop" else measured_on(row.cost)


def _points(table: Table, column: int, measure: Measure, condition: str) -> list[_Point]:
    places = {model: place for place, model in enumerate(models_of(table))}
    found = []
    for row in table.rows:
        cell, cost = row.cells[column], _cost(row, measure)
        if cell is not None and cost is not None and _condition(row, measure) == condition:
            found.append(_Point(row.model, places[row.model], row.label, cost, cell.score))
    return found


@page_style()
def draw_cost(points: Sequence[_Point], measure: Measure) -> Any:
    """Return a matplotlib figure: a line per model through its levels, levels joined as a hollow mark.

    On a logarithmic axis what costs nothing has no place, and what costs next to nothing, as raw pixels do, would push
    the rest into a corner: both are a dashed line across.
    """
    figure, panels = canvas()
    panel = panels[0, 0]
    cheap = _nearly_free(points)
    logarithmic = _is_wide(point.cost for point in points if point not in cheap)
    if logarithmic:
        panel.set_xscale("log")
    for place in dict.fromkeys(point.place for point in points):
        mine = [point for point in points if point.place == place]
        free = [point for point in mine if logarithmic and point in cheap]
        for point in free:
            panel.axhline(100 * point.score.value, color=line_style(place)["color"], linestyle="--", label=point.model)
        _draw_model(panel, [point for point in mine if point not in free], place)
    panel.margins(x=0.12, y=0.18)
    panel.grid()
    _plain_ticks(panel, logarithmic)
    least = "almost none" if any(point.cost > 0 for point in cheap) else "none"
    none = f" (dashed: {least})" if logarithmic and cheap else ""
    panel.set_xlabel(f"{UNITS[measure]}{', logarithmic' if logarithmic else ''}{none}")
    panel.set_ylabel("accuracy in percent")
    return figure


def _draw_model(panel: Any, points: Sequence[_Point], place: int) -> None:
    style = line_style(place)
    levels = [point for point in points if point.label != "+"]
    if levels:
        panel.plot([p.cost for p in levels], [100 * p.score.value for p in levels], label=levels[0].model, **style)
    for point in points:
        if point.label == "+":
            panel.plot([point.cost], [100 * point.score.value], fillstyle="none", linestyle="none", **style)
        # Models above each other by turns, so that their numbers do not meet where the models do.
        above = place % 2 == 0
        panel.annotate(
            point.label,
            (point.cost, 100 * point.score.value),
            xytext=(0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
        )


def _nearly_free(points: Sequence[_Point]) -> list[_Point]:
    """Return the points without cost, and those of one-level models far below every model of several levels."""
    levels = Counter(point.model for point in points if point.label != "+")
    cheapest = min((point.cost for point in points if point.cost > 0 and levels[point.model] > 1), default=0.0)
    return [point for point in points if point.cost <= 0 or (levels[point.model] == 1 and point.cost < cheapest / FREE)]


def _is_wide(costs: Iterable[float]) -> bool:
    real = [cost for cost in costs if cost > 0]
    return bool(real) and max(real) > WIDE * min(real)


def _plain_ticks(panel: Any, logarithmic: bool) -> None:
    """Write costs as 0.05 and 20, never as powers, which a page would have to draw as formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    if logarithmic:
        low, high = panel.get_xlim()
        # Between powers of ten only where there is room for the numbers.
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < _ROOMY * low else (1.0,), numticks=6))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _describe(points: Sequence[_Point], measure: Measure, title: str, condition: str, absent: Sequence[str]) -> str:
    sentences = []
    for model in dict.fromkeys(point.model for point in points):
        each = [
            f"{'levels joined' if point.label == '+' else f'level {point.label}'} {percent(point.score.value)} "
            f"at {point.cost:.3g}"
            for point in points
            if point.model == model
        ]
        sentences.append(f"{model}: {listed(each)}.")
    if absent:
        sentences.append(f"Left out, for their cost was not measured{' so' if condition else ''}: {listed(absent)}.")
    how = f" ({condition})" if condition else ""
    return f"{title}: accuracy in percent at {UNITS[measure]}{how}. {' '.join(sentences)}"

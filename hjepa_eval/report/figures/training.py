"""Pretraining curves: what each level's loss, features and neighbours did from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hjepa_eval.report.figures.drawing import page_style
from hjepa_eval.report.figures.svg import Picture, canvas, inline_svg, line_style, listed

Row = Mapping[str, Any]
# A row of metrics.jsonl in, a number per line out; None where it has none.
Reader = Callable[[Row], list[float | None]]


@dataclass(frozen=True)
class Curve:
    """What one picture of a run shows: `read` gives its numbers, one per level where `by_level`."""

    key: str
    title: str
    axis: str
    read: Reader
    by_level: bool = True


def _losses(prefix: str) -> Reader:
    """Return a reader of `losses/level_0`, `losses/level_1`, ..."""

    def read(row: Row) -> list[float | None]:
        losses = row.get("losses") or {}
        found: list[float | None] = []
        while f"{prefix}{len(found)}" in losses:
            found.append(_number(losses[f"{prefix}{len(found)}"]))
        return found

    return read


def _levels(key: str, factor: float = 1.0) -> Reader:
    """Return a reader of a list with an entry per level."""

    def read(row: Row) -> list[float | None]:
        numbers = [_number(value) for value in row.get(key) or []]
        return [None if number is None else factor * number for number in numbers]

    return read


def _single(*path: str) -> Reader:
    """Return a reader of one number."""

    def read(row: Row) -> list[float | None]:
        value: Any = row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return [] if value is None else [_number(value)]

    return read


# Of fewer values none is far from the others.
LEAST_VALUES = 10
CURVES = (
    Curve("loss", "Loss by level", "loss of the prediction", _losses("level_")),
    Curve("r2", "Explained variance by level", "R² of the prediction", _losses("r2_")),
    Curve("knn", "kNN by level, images of the train split", "accuracy in percent", _levels("knn", 100.0)),
    Curve("rankme", "RankMe by level", "rank of the features", _levels("rankme")),
    Curve("whole", "Whole loss", "loss", _single("losses", "loss"), by_level=False),
    Curve("lr", "Learning rate", "learning rate", _single("lr"), by_level=False),
    Curve("momentum", "Momentum of the target encoder", "momentum", _single("momentum"), by_level=False),
)


def training_pictures(rows: Sequence[Row], *, prefix: str = "training-") -> list[Picture]:
    """Return the curves of a run, a line per level; those that its rows say nothing about are left out.

    Args:
        rows: of the run's `metrics.jsonl`, each with its `step`.
        prefix: begins the ids; a page with several runs gives each its own.
    """
    pictures = []
    for curve in CURVES:
        lines = curve_lines(rows, curve)
        if lines:
            figure = draw_curve(lines, curve)
            text = _describe(lines, curve)
            pictures.append(inline_svg(figure, title=curve.title, text=text, prefix=f"{prefix}{curve.key}-"))
    return pictures


def curve_lines(rows: Sequence[Row], curve: Curve) -> list[tuple[list[int], list[float]]]:
    """Return steps and numbers of each line, gaps left out; no lines where no row has a number."""
    found = [(int(row["step"]), curve.read(row)) for row in rows]
    lines = []
    for place in range(max((len(values) for _, values in found), default=0)):
        steps = [
            (step, value) for step, values in found if place < len(values) and (value := values[place]) is not None
        ]
        lines.append(([step for step, _ in steps], [value for _, value in steps]))
    return lines if any(steps for steps, _ in lines) else []


@page_style()
def draw_curve(lines: Sequence[tuple[Sequence[int], Sequence[float]]], curve: Curve) -> Any:
    """Return a matplotlib figure of one curve; marks where few steps were measured."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, panels = canvas()
    panel = panels[0, 0]
    for place, (steps, values) in enumerate(lines):
        style = line_style(place)
        if len(steps) > 12:
            style["marker"] = ""
        panel.plot(steps, values, label=f"level {place}", **style)
    panel.grid(axis="y")
    panel.set_xlabel("step")
    cut = robust_range([value for _, values in lines for value in values])
    if cut is not None:
        panel.set_ylim(cut[0], cut[1])
    panel.set_ylabel(curve.axis if cut is None else f"{curve.axis} ({cut[2]} outside)")
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    # Numbers as they are: an offset such as 1e-4 above the axis is overlooked.
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if curve.by_level:
        figure.legend(loc="outside upper center", ncols=min(4, len(lines)), handlelength=1.4, columnspacing=1.2)
    return figure


def robust_range(values: Sequence[float]) -> tuple[float, float, int] | None:
    """Return ends of an axis that a few far values do not flatten, and how many lie outside; None where all fit.

    The axis takes the middle nine tenths of the values and as much again on each side.
    """
    if len(values) < LEAST_VALUES:
        return None
    low, high = (float(end) for end in np.quantile(values, [0.05, 0.95]))
    span = high - low
    ends = max(min(values), low - span), min(max(values), high + span)
    outside = sum(not ends[0] <= value <= ends[1] for value in values)
    margin = 0.05 * (ends[1] - ends[0])
    return (ends[0] - margin, ends[1] + margin, outside) if outside and span > 0 else None


def _number(value: Any) -> float | None:
    """Return a finite number; a log has None, NaN as text or nothing where there was none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _describe(lines: Sequence[tuple[Sequence[int], Sequence[float]]], curve: Curve) -> str:
    each = []
    for place, (steps, values) in enumerate(lines):
        if steps:
            name = f"level {place} " if curve.by_level else ""
            each.append(f"{name}from {values[0]:.4g} at step {steps[0]:,} to {values[-1]:.4g} at step {steps[-1]:,}")
    return f"{curve.title} during pretraining, {curve.axis}: {listed(each)}."

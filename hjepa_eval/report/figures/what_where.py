"""What against where: class and position over levels on one axis, from chance to all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hjepa_eval.report.figures.drawing import page_style
from hjepa_eval.report.figures.svg import Picture, canvas, inline_svg, line_style, listed, shortened
from hjepa_eval.report.tables.curves import Curve
from hjepa_eval.report.tables.rounding import percent

# R2 may lie far below 0, where nothing is left to see.
_LEAST = -10.0
_SHIFT = 0.05


def what_where_picture(curves: Sequence[Curve], *, title: str, prefix: str) -> Picture:
    """Return the picture of curves that share an axis: 0 is chance, 100 all, with their 95 % intervals."""
    return inline_svg(draw_curves(curves), title=title, text=f"{title}. {_describe(curves)}", prefix=prefix)


@page_style()
def draw_curves(curves: Sequence[Curve]) -> Any:
    """Return a matplotlib figure of curves; what lies far below chance is drawn at the lower edge."""
    figure, panels = canvas(height=300)
    panel = panels[0, 0]
    for place, curve in enumerate(curves):
        levels = [point.level + _SHIFT * (place - (len(curves) - 1) / 2) for point in curve.points]
        value, low, high = (
            [max(_LEAST, 100 * getattr(point, name)) for point in curve.points] for name in ("share", "low", "high")
        )
        ends = [
            [most - least for most, least in zip(value, low, strict=True)],
            [most - least for most, least in zip(high, value, strict=True)],
        ]
        panel.errorbar(levels, value, yerr=ends, elinewidth=1.2, capsize=3, **line_style(place))
    numbers = sorted({point.level for curve in curves for point in curve.points})
    panel.set_xticks(numbers)
    panel.set_xlim(numbers[0] - 0.4, numbers[-1] + 0.4)
    panel.set_ylim(_LEAST - 2, 102)
    panel.grid(axis="y")
    panel.set_xlabel("level (0 is the finest)")
    panel.set_ylabel("percent of the way from chance")
    lines = [container.lines[0] for container in panel.containers]
    names = [shortened(curve.factor) for curve in curves]
    figure.legend(lines, names, loc="outside upper center", ncols=min(2, len(names)))
    return figure


def _describe(curves: Sequence[Curve]) -> str:
    said = []
    for curve in curves:
        numbers = [
            f"level {point.level} {percent(point.share)} ({percent(point.low)} to {percent(point.high)})"
            for point in curve.points
        ]
        said.append(f"{curve.factor}: {listed(numbers)}.")
    return f"Percent of the way from chance to all, 95 % interval. {' '.join(said)}"

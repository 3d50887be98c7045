"""Which classes a level gains or loses: accuracy per class at two levels, and the difference with its interval."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from hjepa_eval.metrics.classes import ClassDifferences
from hjepa_eval.report.figures.drawing import drawn, page_style
from hjepa_eval.report.figures.svg import WIDTH, Picture, canvas, inline_svg, line_style, listed, shortened
from hjepa_eval.report.tables.rounding import points_within

MOST_CLASSES = 30
_ROW = 16
_NAMED = 3


def class_difference_picture(
    found: ClassDifferences, *, title: str, prefix: str, levels: tuple[str, str] = ("first level", "second level")
) -> Picture:
    """Return the picture of two levels class by class, the greatest gain of the first level on top.

    Of more than 30 classes the 15 from each end are shown, and title and text say so.

    Args:
        found: the classes, in any order.
        title: what was compared, such as `kNN k=20, level 2 - level 0`.
        prefix: begins the ids, unlike that of any other picture of the page.
        levels: what the two levels are called in the legend.
    """
    shown = shown_differences(found)
    few = f" ({MOST_CLASSES // 2} of {len(found.names)} classes from each end)" if shown is not None else ""
    ordered = _ordered(found) if shown is None else shown
    text = _describe(_ordered(found), title, levels, few)
    return inline_svg(draw_differences(ordered, levels), title=f"{title}{few}", text=text, prefix=prefix)


def shown_differences(found: ClassDifferences) -> ClassDifferences | None:
    """Return the 15 classes from each end of the differences when there are more than 30; else None."""
    if len(found.names) <= MOST_CLASSES:
        return None
    half = MOST_CLASSES // 2
    return _chosen(_ordered(found), np.r_[0:half, len(found.names) - half : len(found.names)])


@page_style()
def draw_differences(found: ClassDifferences, levels: tuple[str, str]) -> Any:
    """Return a matplotlib figure: on the left both accuracies of each class, on the right their difference."""
    classes = len(found.names)
    figure, panels = canvas(1, 2, width=WIDTH, height=95 + _ROW * classes)
    accuracy, difference = panels[0]
    rows = np.arange(classes)
    accuracy.hlines(rows, 100 * found.first, 100 * found.second, color=drawn("grid"), linewidth=3)
    for place, values in enumerate((found.first, found.second)):
        accuracy.plot(100 * values, rows, linestyle="none", label=levels[place], **line_style(place))
    accuracy.set_yticks(rows, [shortened(name, 14) for name in found.names])
    accuracy.set_xlabel("percent right")
    # Not error bars: the interval is no distance from the difference, and has its own middle.
    difference.hlines(rows, 100 * found.low, 100 * found.high, color=drawn("ink"), linewidth=1.2)
    difference.plot(100 * found.difference, rows, linestyle="none", marker="o", color=drawn("ink"), markersize=4.5)
    difference.axvline(0, color=drawn("rest"), linewidth=1)
    difference.set_yticks(rows, [])
    difference.set_xlabel("difference in points")
    for panel in (accuracy, difference):
        panel.set_ylim(max(1, classes) - 0.5, -0.5)
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=2, handletextpad=0.1, columnspacing=1.2)
    return figure


def _ordered(found: ClassDifferences) -> ClassDifferences:
    return _chosen(found, np.argsort(-found.difference, kind="stable"))


def _chosen(found: ClassDifferences, places: np.ndarray) -> ClassDifferences:
    arrays = {
        each.name: getattr(found, each.name)[places] for each in fields(found) if each.name not in ("names", "interval")
    }
    return replace(found, names=tuple(found.names[place] for place in places), **arrays)


def _describe(found: ClassDifferences, title: str, levels: tuple[str, str], few: str) -> str:
    """Return in words which classes differ, and the ends of the differences."""

    def named(places: list[int]) -> str:
        texts = (
            (place, *points_within(found.difference[place], found.low[place], found.high[place])) for place in places
        )
        return listed([f"{found.names[place]} {gain} ({low} to {high})" for place, gain, low, high in texts])

    if not found.names:
        return f"{title}: no samples."
    gains = [place for place in range(len(found.names)) if found.low[place] > 0]
    losses = [place for place in range(len(found.names)) if found.high[place] < 0][::-1]
    parts = [
        f"{title}: accuracy per class of {levels[0]} minus {levels[1]}, in points with a 95 % interval{few}.",
        f"Of {len(found.names)} classes {len(gains)} gain and {len(losses)} lose beyond their interval.",
    ]
    parts += [f"Most gained: {named(gains[:_NAMED])}."] if gains else []
    parts += [f"Most lost: {named(losses[:_NAMED])}."] if losses else []
    return " ".join(parts)

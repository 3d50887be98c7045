"""Confusion matrices: what share of each class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.metrics.classes import most_confused
from hjepa_eval.report.figures.drawing import drawn, page_style
from hjepa_eval.report.figures.svg import WIDTH, Picture, canvas, inline_svg, listed, shortened
from hjepa_eval.report.tables.rounding import percent

# Numbers fit into the cells of so many classes; names of more do not fit below the columns.
MOST_WITH_NUMBERS = 12
MOST_CLASSES = 30
_ROW = 12.5
_PAIRS = 3


def confusion_picture(
    counts: NDArray[np.integer],
    names: Sequence[str],
    *,
    title: str,
    prefix: str,
    together: NDArray[np.integer] | None = None,
    runs: int = 1,
) -> Picture:
    """Return the picture of a confusion matrix: the share of each true class (row) that is taken for each (column).

    Of more than 30 classes the 30 with the most wrong samples are shown, and title and text say so.

    Args:
        counts: int64 [C, C], as `confusion_counts` returns them; of several runs on the same samples their sum.
        names: of the C classes.
        title: what was measured, such as `kNN k=20, level 2`.
        prefix: begins the ids, unlike that of any other picture of the page.
        together: int64 [C, C], the sum of all matrices that stand beside this one: it chooses the classes, so that they
            are the same in all. The matrix itself when not given.
        runs: seeds or draws in the counts.
    """
    shown = shown_classes(counts if together is None else together)
    shares = _shares(counts)
    where = "" if together is None else " at all levels"
    few = (
        f" (the {len(shown)} of {len(counts)} classes with the most errors{where})" if len(shown) < len(counts) else ""
    )
    figure = draw_confusion(shares[np.ix_(shown, shown)], [names[place] for place in shown])
    text = _describe(counts, shares, names, title, few, runs)
    return inline_svg(figure, title=f"{title}{few}", text=text, prefix=prefix)


def shown_classes(counts: NDArray[np.integer]) -> list[int]:
    """Return the classes of a picture, in class order: all of up to 30, else those with the most wrong samples."""
    wrong = counts.sum(axis=1) - np.diagonal(counts)
    return sorted(int(place) for place in np.argsort(-wrong, kind="stable")[:MOST_CLASSES])


@page_style()
def draw_confusion(shares: NDArray[np.float64], names: Sequence[str]) -> Any:
    """Return a matplotlib figure of shares [C, C] in [0, 1]: a cell for each that is not zero, the stronger the more.

    Cells are of one colour at different strengths, so that they are right on light and on dark pages.
    """
    classes = len(names)
    numbers = classes <= MOST_WITH_NUMBERS
    figure, panels = canvas(width=WIDTH, height=WIDTH + 10 if numbers else 80 + max(260, _ROW * classes))
    panel = panels[0, 0]
    rows, columns = np.nonzero(shares > 0)
    _draw_cells(panel, rows, columns, shares[rows, columns])
    if numbers:
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            panel.text(column, row, _number(shares[row, column]), ha="center", va="center")
    panel.set_xlim(-0.5, classes - 0.5)
    panel.set_ylim(classes - 0.5, -0.5)
    panel.tick_params(length=0)
    if numbers:
        panel.set_xticks(range(classes), [shortened(name, 12) for name in names], rotation=90)
        panel.set_yticks(range(classes), [shortened(name, 12) for name in names])
        panel.set_xlabel("taken for, in percent of the true class")
    else:
        panel.set_yticks(range(classes), [f"{place} {shortened(name)}" for place, name in enumerate(names, start=1)])
        panel.set_xticks(range(4, classes, 5), [str(place + 1) for place in range(4, classes, 5)])
        panel.set_xlabel("taken for, by number")
    panel.set_ylabel("true class")
    for spine in panel.spines.values():
        spine.set(visible=True, color=drawn("grid"))
    return figure


def _draw_cells(
    panel: Any, rows: NDArray[np.integer], columns: NDArray[np.integer], strength: NDArray[np.float64]
) -> None:
    """Draw a square per share; its strength is its opacity, in steps that an eye cannot tell apart."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    squares = corners + np.stack([columns, rows], axis=1)[:, None]
    colours = [to_rgba(drawn("heat"), alpha) for alpha in np.clip(strength, 0.02, 1.0).round(2)]
    panel.add_collection(
        PolyCollection(list(squares), facecolors=colours, edgecolors="none", linewidths=0, gid="cells")
    )


def _number(share: float) -> str:
    """Return whole percent; what happened is never a 0, and what failed once never a 100."""
    whole = 100 * share
    return "<1" if whole < 1 else ">99" if 99 < whole < 100 else f"{whole:.0f}"


def _shares(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the row's shares; a class without samples has none."""
    return np.asarray(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))


def _describe(
    counts: NDArray[np.integer], shares: NDArray[np.float64], names: Sequence[str], title: str, few: str, runs: int
) -> str:
    """Return the overall accuracy, the best and the worst class and the most frequent errors in words."""
    right, samples = int(np.trace(counts)), int(counts.sum())
    if not samples:
        return f"{title}: no samples."
    present = np.flatnonzero(counts.sum(axis=1))
    own = np.diagonal(shares)[present]
    best, worst = present[own.argmax()], present[own.argmin()]
    wrong = [
        f"{names[true]} taken for {names[taken]} ({percent(shares[true, taken])} percent)"
        for true, taken in most_confused(counts, _PAIRS)
    ]
    errors = f" Most frequent errors: {listed(wrong)}." if wrong else ""
    among = f"{samples:,}" if runs == 1 else f"{runs} x {samples // runs:,}"
    return (
        f"{title}: confusion matrix{few}, rows are true classes. {right:,} of {among} right "
        f"({percent(right / samples)} percent). Highest {names[best]} {percent(shares[best, best])}, lowest "
        f"{names[worst]} {percent(shares[worst, worst])} percent.{errors}"
    )

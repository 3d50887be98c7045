"""The canvas of all figures: a size that a phone shows one per row, marks, and names that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hjepa_eval.report.drawing import PIXELS_PER_INCH, printable
from hjepa_eval.report.palette import drawn, series

WIDTH, HEIGHT = 340, 260
LONG_NAME = 16
# Models and levels differ by their marks too, not by colour alone.
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def canvas(rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    """Return a matplotlib figure of so many CSS pixels, and its panels as an array [rows, columns]."""
    from matplotlib.figure import Figure

    size = width / PIXELS_PER_INCH, height / PIXELS_PER_INCH
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def line_style(place: int) -> dict[str, Any]:
    """Return colour and mark of the series at a place from 0 on, as matplotlib takes them."""
    return {"color": drawn(series(place)), "marker": _MARKS[place % len(_MARKS)]}


def shortened(name: str, longest: int = LONG_NAME) -> str:
    """Return a name of at most so many printable characters, on one line: of a longer one the middle is left out."""
    line = " ".join(printable(name).split())
    if len(line) <= longest:
        return line
    end = (longest - 1) // 2
    return f"{line[: longest - 1 - end]}…{line[-end:]}"


def listed(names: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)

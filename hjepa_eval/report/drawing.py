"""How everything is drawn: in the palette's ink, at the sizes of a page, with text as it is written."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hjepa_eval.report.palette import drawn

# One unit of a drawing is one CSS pixel.
PIXELS_PER_INCH = 72
TEXT = 11
# XML 1.0 has no way to write these, not even escaped.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@contextmanager
def page_style() -> Iterator[None]:
    """Within, matplotlib draws as a page needs it, whatever the user's own settings are."""
    from matplotlib import style

    with style.context(["default", _style()]):
        yield


@contextmanager
def literal_text(figure: Any) -> Iterator[None]:
    """Within, a figure is written with all its text as it is: no formula, no sign that a file cannot hold.

    Signs that matplotlib's own font lacks are no warning: the page's fonts draw them. Names beside ticks are written
    anew by the axes, so those have to be `printable` before.
    """
    from matplotlib.text import Text

    for each in figure.findobj(Text):
        each.set_parse_math(False)
        each.set_text(printable(each.get_text()))
    with page_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def printable(text: str) -> str:
    """Return a text with signs that no file can hold replaced, such as the bytes of a file name that is no UTF-8."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _style() -> dict[str, Any]:
    ink = drawn("ink")
    return {
        # Text stays text, which readers can select, search and hear.
        "svg.fonttype": "none",
        # Ids of equal drawings are equal, so that a report can be made twice and compared.
        "svg.hashsalt": "hjepa",
        # A class named $x_2$ is shown as it is called.
        "text.parse_math": False,
        "font.size": TEXT,
        "axes.labelsize": TEXT,
        "axes.titlesize": TEXT + 1,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
        "grid.color": drawn("grid"),
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
    }

"""How everything is drawn: in the palette's ink, at the sizes of a page, with text as it is written.

A colour is one name with two values, for light and for dark pages. Lines, points and cells have a contrast of at least
3 to the page, text at least 4.5 (WCAG 2.2, 1.4.11 and 1.4.3); a test computes both. Pictures draw with the light
values; `svg.py` turns those into the names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from hjepa_eval.errors import unknown
from hjepa_eval.results.text import visible

Scheme = Literal["light", "dark"]

# Okabe and Ito's hues first, darkened on white where they are too pale to be seen, lightened on black; then their
# deeper or paler kin, which only maps of more than ten classes need.
_LIGHT = (
    *("#0072b2", "#d55e00", "#00855f", "#b8518b", "#a87400", "#0094a3", "#6a51a3", "#6b7a00", "#c2303f", "#7a4a2b"),
    *("#00456e", "#6e1f14", "#00513a", "#7a2c5b", "#5e4100", "#005f6b", "#3f2b7a", "#4a6100", "#e0607a", "#a98467"),
)
_DARK = (
    *("#4fa8e0", "#ff8a3d", "#2fc295", "#e08fbd", "#f0b030", "#3fd6e6", "#a993e6", "#c3cf3a", "#ff7480", "#c9a07f"),
    *("#2c7fb8", "#c9642a", "#1c8c6c", "#b0618f", "#b58420", "#a0eef5", "#7c63c4", "#85901f", "#ffb3ba", "#9c7252"),
)
NUM_SERIES = len(_LIGHT)

PALETTE: Mapping[Scheme, Mapping[str, str]] = {
    # Text reads well on `heat` at any strength, so numbers in cells need no second colour.
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2328",
        "grid": "#d8dce2",
        "rest": "#858b95",
        "heat": "#3f8fd0",
        **{f"series-{number}": colour for number, colour in enumerate(_LIGHT, start=1)},
    },
    "dark": {
        "paper": "#14171c",
        "ink": "#e8eaed",
        "grid": "#343a43",
        "rest": "#767d88",
        "heat": "#2369a4",
        **{f"series-{number}": colour for number, colour in enumerate(_DARK, start=1)},
    },
}


def css_variables(scheme: Scheme) -> str:
    """Return the palette of a scheme as CSS declarations: `--ink: #1f2328; --grid: ...; --series-1: ...;`.

    Raises:
        UnknownNameError: there is no such scheme.
    """
    if scheme not in PALETTE:
        raise unknown("scheme of colours", scheme, PALETTE)
    return " ".join(f"--{name}: {value};" for name, value in PALETTE[scheme].items())


def drawn(name: str) -> str:
    """Return the colour that a picture draws with to mean a name of the palette."""
    return PALETTE["light"][name]


def series(place: int) -> str:
    """Return the name of the colour of the series at a place from 0 on; after the last they begin again."""
    return f"series-{place % NUM_SERIES + 1}"


def variable(name: str) -> str:
    """Return `var(--name)` for a stylesheet."""
    return f"var(--{name})"


# One unit of a drawing is one CSS pixel.
PIXELS_PER_INCH = 72
TEXT = 11


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
    anew by the axes, so those have to be `visible` before.
    """
    from matplotlib.text import Text

    for each in figure.findobj(Text):
        each.set_parse_math(False)
        each.set_text(visible(each.get_text()))
    with page_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


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

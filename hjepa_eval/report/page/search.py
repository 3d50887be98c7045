"""The answer to a search as a picture: an HTML file that opens without a server, or a PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.report.page.template import page_parts, template_environment
from hjepa_eval.results.text import visible


@dataclass(frozen=True)
class ShownNeighbour:
    """A train image near the one that was searched with."""

    picture: bytes
    name: str
    class_name: str
    cosine: float

    @property
    def data(self) -> str:
        """The picture as an address that holds it."""
        return _data(self.picture)


@dataclass(frozen=True)
class ShownSearch:
    """An image, and for each level its number, its name and the nearest train images, nearest first."""

    picture: bytes
    name: str
    levels: tuple[tuple[int, str, tuple[ShownNeighbour, ...]], ...]

    @property
    def data(self) -> str:
        """The picture as an address that holds it."""
        return _data(self.picture)


def _data(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def search_page(searches: Sequence[ShownSearch], *, model: str, dataset: str) -> str:
    """Return the answers as an HTML page; names of data are escaped."""
    parts = page_parts(style="style.css")
    page = template_environment().get_template("search.html")
    return page.render(searches=searches, model=model, dataset=dataset, **parts)


def search_png(searches: Sequence[ShownSearch], *, model: str, dataset: str) -> bytes:
    """Return the answers as a PNG: a row per image and level, the image first, its neighbours with class and cosine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(search, level) for search in searches for level in search.levels]
    columns = 1 + max(len(level[2]) for _, level in rows)
    figure = Figure(figsize=(1.5 * columns, 1.8 * len(rows) + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(visible(f"{model} on {dataset}").replace("$", r"\$"), fontsize=9)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (search, (number, _, neighbours)) in zip(grid, rows, strict=True):
        shown = [(search.picture, f"level {number}\n{_end(search.name)}")]
        shown += [
            (each.picture, f"{_end(each.class_name)} {each.cosine:.3f}\n{_end(each.name)}") for each in neighbours
        ]
        for cell in axes:
            cell.axis("off")
        for cell, (picture, text) in zip(axes, shown, strict=False):
            cell.imshow(_pixels(picture), interpolation="nearest")
            cell.set_title(text.replace("$", r"\$"), fontsize=6)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _end(name: str) -> str:
    """Return the end of a name, which tells files apart, as one visible line."""
    short = visible(name)
    return short if len(short) <= 22 else f"…{short[-21:]}"


def _pixels(picture: bytes) -> object:
    from matplotlib.image import imread

    return imread(io.BytesIO(picture), format="png" if picture.startswith(b"\x89PNG") else "jpeg")

"""Pictures inside a page: one canvas size, and what matplotlib draws on it as inline SVG with a text in words."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from hjepa_eval.report.figures.drawing import PALETTE, PIXELS_PER_INCH, drawn, literal_text, series
from hjepa_eval.results.text import visible

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
    """Return a name of at most so many visible characters, on one line: of a longer one the middle is left out."""
    line = " ".join(visible(name).split())
    if len(line) <= longest:
        return line
    end = (longest - 1) // 2
    return f"{line[: longest - 1 - end]}…{line[-end:]}"


def listed(names: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


# Points of this group carry `data-point="n"`, so that a page's script finds them.
POINTS = "points"
_NAMES = {colour: name for name, colour in PALETTE["light"].items()}
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_LOCAL = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Picture:
    """A drawing, ready to stand in HTML.

    Attributes:
        svg: one `<svg role="img">` element with `<title>` and `<desc>`, ids of its own, and colours as CSS variables.
        title: short, for a caption.
        text: what it shows, in words: the alternative text.
    """

    svg: str
    title: str
    text: str


def inline_svg(figure: Any, *, title: str, text: str, prefix: str) -> Picture:
    """Return a matplotlib figure as an element of a page, in the colours of the page's stylesheet.

    The figure draws with light values of the palette; each becomes `var(--name,#value)`, so that it is right without a
    stylesheet too. The n-th point of a collection with the gid `points` has `data-point="n"`, and its group the id
    `{prefix}points`. Fonts are the page's; the width is that of the figure, or less where there is less room.

    Args:
        figure: at 72 units per inch.
        title: short.
        text: what it shows, in words.
        prefix: begins every id; letters, digits, `-` and `_`, unlike that of any other picture of the page.

    Raises:
        ValueError: a colour is not of the palette, or the prefix is no beginning of an id: bugs, both.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", prefix, re.ASCII):
        raise ValueError(f"{prefix!r} cannot begin an id")
    root = ElementTree.fromstring(_written(figure))
    _drop_furniture(root)
    _number_points(root)
    _rename_ids(root, prefix, {artist.get_gid() for artist in figure.findobj() if artist.get_gid()})
    for element in root.iter():
        _simplify(element)
    words = visible(title), visible(text)
    _address(root, figure, prefix, *words)
    return Picture(ElementTree.tostring(root, encoding="unicode"), *words)


def _written(figure: Any) -> bytes:
    content = io.BytesIO()
    with literal_text(figure):
        figure.savefig(content, format="svg", transparent=True, dpi=PIXELS_PER_INCH, metadata={"Date": None})
    return content.getvalue()


def _drop_furniture(root: ElementTree.Element) -> None:
    """Leave out metadata, names of namespaces, and the stylesheet, which would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            name = child.tag.rpartition("}")[2]
            if name in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        named = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(named)


def _number_points(root: ElementTree.Element) -> None:
    for group in root.iter("g"):
        if group.get("id") == POINTS:
            for place, point in enumerate(group.iter("use")):
                point.set("data-point", str(place))


def _rename_ids(root: ElementTree.Element, prefix: str, kept: set[str]) -> None:
    """Begin ids with the prefix; those that nothing refers to go, but for `kept`."""
    wanted = set(kept)
    for element in root.iter():
        for name, value in element.attrib.items():
            wanted.update(_LOCAL.findall(value))
            if name == "href" and value.startswith("#"):
                wanted.add(value[1:])
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id" and value not in wanted:
                del element.attrib["id"]
            elif name == "id":
                element.set("id", prefix + value)
            elif name == "href" and value.startswith("#"):
                element.set("href", f"#{prefix}{value[1:]}")
            else:
                element.set(name, _LOCAL.sub(rf"url(#{prefix}\1)", value))


def _simplify(element: ElementTree.Element) -> None:
    """Give an element the page's colours and fonts, and coordinates of a tenth of a pixel."""
    if "style" in element.attrib:
        parts = [part.strip() for part in element.attrib["style"].split(";")]
        kept = [re.sub(r":\s+", ":", part) for part in parts if part and not part.startswith("font-family")]
        element.set("style", ";".join(_HEX.sub(_colour, part) for part in kept))
    for name in ("x", "y", "d", "transform", "width", "height"):
        if name in element.attrib and not (name == "transform" and "matrix" in element.attrib[name]):
            rounded = _NUMBER.sub(lambda number: f"{float(number[0]):.1f}", element.attrib[name])
            element.set(name, " ".join(rounded.split()))
    if re.match(r"rotate\(-?0(\.0)? ", element.get("transform", "")):
        del element.attrib["transform"]
    # Only spaces between elements: what is written is all in <text>.
    if element.tag != "text" and not (element.text or "").strip():
        element.text = None
    element.tail = None


def _colour(found: re.Match[str]) -> str:
    name = _NAMES.get(found[0].lower())
    if name is None:
        raise ValueError(f"the colour {found[0]} is not of the palette")
    return f"var(--{name},{found[0].lower()})"


def _address(root: ElementTree.Element, figure: Any, prefix: str, title: str, text: str) -> None:
    """Make the root what a page and a screen reader need, with the words first."""
    width, height = (round(PIXELS_PER_INCH * side) for side in figure.get_size_inches())
    root.attrib.clear()
    root.attrib.update(
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "role": "img",
            "aria-labelledby": f"{prefix}title {prefix}text",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "style": f"width:100%;max-width:{width}px;height:auto;stroke-linejoin:round",
        }
    )
    for place, (tag, name, words) in enumerate((("title", "title", title), ("desc", "text", text))):
        element = ElementTree.Element(tag, {"id": prefix + name})
        element.text = words
        root.insert(place, element)

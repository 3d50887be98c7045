"""Pictures inside a page: what matplotlib draws, as inline SVG in the page's colours, each with a text in words."""

from __future__ import annotations

from dataclasses import dataclass


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

"""Small images of a page: each stands in it once, as a CSS rule, however often it is shown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hjepa_eval.errors import ResultError
from hjepa_eval.report.gallery import Gallery, ImageKey

# Of a page of less than 8 MB; in base64 it is a third more.
MOST_BYTES = 2_400_000
# Pixels wide; larger ones are smoothed when they are enlarged.
COARSE = 16
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Thumbnails:
    """The images of a page, by content.

    Attributes:
        names: sha256 of the content -> the CSS class that shows it.
        rules: one CSS rule for each class.
        left_out: how many images did not fit.
    """

    names: dict[str, str]
    rules: str
    left_out: int

    def name(self, gallery: Gallery, key: ImageKey) -> str | None:
        """Return the CSS class of an image; None where the page does not have it."""
        content = gallery.images.get(key)
        return None if content is None else self.names.get(_digest(content))


def collect_thumbnails(galleries: Sequence[Gallery], *, most_bytes: int = MOST_BYTES) -> Thumbnails:
    """Return the images that galleries show: queries and neighbours first, then those of maps, while they fit.

    Raises:
        ResultError: an image is neither JPEG nor PNG.
    """
    names: dict[str, str] = {}
    rules: list[str] = []
    missing: set[str] = set()
    space = most_bytes
    for gallery, key in _wanted(galleries):
        content = gallery.images.get(key)
        digest = "" if content is None else _digest(content)
        if content is None or digest in names:
            continue
        if len(content) > space:
            missing.add(digest)
            continue
        space -= len(content)
        names[digest] = f"t{len(names)}"
        rules.append(_rule(names[digest], content, f"{gallery.model}, {key[0]} image {key[1]}"))
    return Thumbnails(names, "\n".join(rules), len(missing))


def _wanted(galleries: Sequence[Gallery]) -> Iterator[tuple[Gallery, ImageKey]]:
    for gallery in galleries:
        near = gallery.neighbourhoods
        yield from ((gallery, ("test", int(place))) for place in near.index)
        yield from ((gallery, ("train", int(place))) for place in near.train_index.ravel())
    for gallery in galleries:
        yield from ((gallery, ("test", int(place))) for place in gallery.map.index)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _rule(name: str, content: bytes, where: str) -> str:
    kind = "png" if content.startswith(_PNG) else "jpeg" if content.startswith(_JPEG) else None
    if kind is None:
        raise ResultError(f"{where}: the gallery's image is neither JPEG nor PNG; hjepa eval writes it anew")
    # Eight pixels of a digit are squares, not a blur.
    coarse = kind == "png" and int.from_bytes(content[16:20], "big") <= COARSE
    style = ";image-rendering:pixelated" if coarse else ""
    return f".{name}{{background-image:url(data:image/{kind};base64,{base64.b64encode(content).decode()}){style}}}"

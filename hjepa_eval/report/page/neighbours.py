"""Nearest neighbours on a page: each query with its neighbours at every level; every small image stands there once."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hjepa_eval.errors import ResultError
from hjepa_eval.results.gallery import Gallery, ImageKey

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


# Of queries, and of neighbours at one level: what is more belongs into another kind of report.
MOST_QUERIES = 24
MOST_NEIGHBOURS = 12


@dataclass(frozen=True)
class Neighbour:
    """A train image near a query: its class, and where it comes from, empty where the gallery does not say.

    `thumb` is its CSS class, None where the image was not kept.
    """

    thumb: str | None
    name: str
    right: bool
    cosine: float
    source: str = ""


@dataclass(frozen=True)
class LevelNeighbours:
    """The neighbours of a query at one level, nearest first."""

    level: int
    level_name: str
    right: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Query:
    """A test image with its neighbours at every level; `chosen` says why it is shown, `source` where it comes from."""

    thumb: str | None
    name: str
    place: int
    chosen: str
    levels: tuple[LevelNeighbours, ...]
    source: str = ""


def queries(gallery: Gallery, thumbnails: Thumbnails) -> list[Query]:
    """Return what a page shows of a gallery's neighbourhoods: its first queries and nearest neighbours."""
    near = gallery.neighbourhoods
    return [
        Query(
            thumbnails.name(gallery, ("test", int(near.index[place]))),
            gallery.class_names[near.labels[place]],
            int(near.index[place]),
            near.chosen[place],
            tuple(_at_level(gallery, thumbnails, position, place) for position in range(len(gallery.levels))),
            gallery.names.get(("test", int(near.index[place])), ""),
        )
        for place in range(min(len(near.index), MOST_QUERIES))
    ]


def unshown(gallery: Gallery) -> str:
    """Return a sentence about what of a gallery's neighbourhoods `queries` leaves out; nothing if nothing is."""
    found, kept = gallery.neighbourhoods.train_index.shape[1:]
    parts = [f"{MOST_QUERIES} of {found} test images"] if found > MOST_QUERIES else []
    parts += [f"the nearest {MOST_NEIGHBOURS} of {kept} train images"] if kept > MOST_NEIGHBOURS else []
    return f"Of this gallery the page shows {' and '.join(parts)}." if parts else ""


def _at_level(gallery: Gallery, thumbnails: Thumbnails, position: int, place: int) -> LevelNeighbours:
    near = gallery.neighbourhoods
    found = tuple(
        Neighbour(
            thumbnails.name(gallery, ("train", int(index))),
            gallery.class_names[label],
            bool(label == near.labels[place]),
            float(cosine),
            gallery.names.get(("train", int(index)), ""),
        )
        for index, label, cosine in list(
            zip(
                near.train_index[position, place],
                near.train_labels[position, place],
                near.similarity[position, place],
                strict=True,
            )
        )[:MOST_NEIGHBOURS]
    )
    number, name = gallery.levels[position]
    return LevelNeighbours(number, name, sum(each.right for each in found), found)

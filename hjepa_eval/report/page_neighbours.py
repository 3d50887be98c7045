"""Nearest neighbours on a page: each query with its neighbours at every level, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

from hjepa_eval.report.gallery import Gallery
from hjepa_eval.report.thumbnails import Thumbnails

# Of queries, and of neighbours at one level: what is more belongs into another kind of report.
MOST_QUERIES = 24
MOST_NEIGHBOURS = 12


@dataclass(frozen=True)
class Neighbour:
    """A train image near a query; `thumb` is its CSS class, None where the image was not kept."""

    thumb: str | None
    name: str
    right: bool
    cosine: float


@dataclass(frozen=True)
class LevelNeighbours:
    """The neighbours of a query at one level, nearest first."""

    level: int
    level_name: str
    right: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Query:
    """A test image with its neighbours at every level; `chosen` says why it is shown."""

    thumb: str | None
    name: str
    place: int
    chosen: str
    levels: tuple[LevelNeighbours, ...]


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

"""Maps, curves and masks on a page: what a model's gallery has beyond neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hjepa_eval.errors import ResultError
from hjepa_eval.report.figures.map import class_colours, grey_classes, map_picture
from hjepa_eval.report.figures.masks import mask_pictures
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.figures.training import training_pictures
from hjepa_eval.report.page.models import PageModel
from hjepa_eval.report.page.neighbours import Thumbnails
from hjepa_eval.results.gallery import Gallery

# Points of all maps of a page together: about 100 bytes each in the file.
MOST_POINTS = 12_000
MOST_POINTS_OF_A_MAP = 1_000
NO_MASKS = "The gallery of this run holds no masks and does not say why; hjepa eval writes it anew."


@dataclass(frozen=True)
class LevelMapView:
    """The map of one level; `prefix` begins the ids in its picture."""

    level: int
    name: str
    prefix: str
    picture: Picture


@dataclass(frozen=True)
class MapView:
    """The maps of a model: `points` is for the script, `classes` for the legend, as (label, name, how many).

    `colours` has a CSS colour for each label, `coloured` says where they are not enough, `sampled` what is left out.
    """

    model: int
    method: str
    levels: tuple[LevelMapView, ...]
    points: dict[str, list[Any]]
    classes: tuple[tuple[int, str, int], ...]
    colours: dict[int, str]
    coloured: str = ""
    sampled: str = ""


@dataclass(frozen=True)
class PretrainingView:
    """The curves and masks of a model that is a run; `no_masks` says why it has none."""

    model: int
    curves: tuple[Picture, ...]
    masks: tuple[Picture, ...]
    mask_kind: str
    no_masks: str


def thinned(galleries: Sequence[Gallery]) -> list[Gallery]:
    """Return the galleries with as many points on each map as a page takes, evenly from what is there."""
    maps = sum(len(gallery.levels) for gallery in galleries)
    most = min(MOST_POINTS_OF_A_MAP, MOST_POINTS // max(1, maps))
    return [_thinned(gallery, most) for gallery in galleries]


def _thinned(gallery: Gallery, most: int) -> Gallery:
    count = len(gallery.map.index)
    if count <= most:
        return gallery
    kept = np.linspace(0, count - 1, most).round().astype(np.int64)
    note = f"maps show {most:,} of {count:,} images, evenly from the test split's order"
    thin = replace(
        gallery.map,
        index=gallery.map.index[kept],
        labels=gallery.map.labels[kept],
        points=gallery.map.points[:, kept],
    )
    return replace(gallery, map=thin, notes=(*gallery.notes, note))


def map_of(model: PageModel, thumbnails: Thumbnails) -> MapView | None:
    """Return the maps of a model; None where it has no gallery."""
    gallery = model.gallery
    if gallery is None or not len(gallery.map.index):
        return None
    levels = []
    for position, (number, name) in enumerate(gallery.levels):
        prefix = f"m{model.number}-{number}-"
        levels.append(LevelMapView(number, name, prefix, map_picture(gallery, position, prefix=prefix)))
    labels = gallery.map.labels
    names = [thumbnails.name(gallery, ("test", int(place))) for place in gallery.map.index]
    points: dict[str, list[Any]] = {"label": labels.tolist(), "place": gallery.map.index.tolist(), "thumb": names}
    counts = np.bincount(labels, minlength=len(gallery.class_names))
    classes = tuple((int(c), gallery.class_names[c], int(counts[c])) for c in np.flatnonzero(counts))
    missing = sum(name is None for name in names)
    sampled = f"{missing:,} of {len(names):,} images have no thumbnail here, to keep the file small." if missing else ""
    return MapView(
        model=model.number,
        method=gallery.map.method,
        levels=tuple(levels),
        points=points,
        classes=classes,
        colours=class_colours(gallery),
        coloured=grey_classes(gallery),
        sampled=sampled,
    )


def pretraining_of(model: PageModel) -> PretrainingView | None:
    """Return the curves and masks of a model; None where nothing in its gallery is of a run."""
    gallery = model.gallery
    if gallery is None or not (gallery.training or gallery.masks or gallery.no_masks):
        return None
    curves = tuple(training_pictures(gallery.training, prefix=f"p{model.number}-")) if gallery.training else ()
    if gallery.masks is None:
        return PretrainingView(model.number, curves, (), "", gallery.no_masks or NO_MASKS)
    try:
        masks = tuple(mask_pictures(gallery.masks, gallery.images, prefix=f"h{model.number}-"))
    except ResultError as error:  # The gallery's other pictures need not wait for this one.
        return PretrainingView(model.number, curves, (), "", f"The masks cannot be shown: {error}.")
    return PretrainingView(model.number, curves, masks, gallery.masks.kind, "")

"""How many pictures a page has: those of the models first in line, so that it stays small however many there are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hjepa_eval.errors import first_few
from hjepa_eval.report.figures.confusion import MOST_CLASSES, MOST_WITH_NUMBERS
from hjepa_eval.report.page.models import PageModel
from hjepa_eval.report.page.neighbours import MOST_NEIGHBOURS, MOST_QUERIES
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.results.gallery import Gallery

# Bytes of a page of less than 8 MB. Thumbnails and the points of maps have limits of their own.
MOST_OF_CLASSES = 2_400_000
MOST_OF_GALLERIES = 1_000_000
# How large parts of a page are at most, measured.
_PICTURE, _CELL, _NUMBER, _CLASS, _NEIGHBOUR, _CURVES = 8_000, 150, 70, 900, 350, 50_000
_MOST_NAMED = 20


@dataclass(frozen=True)
class Fitting:
    """What fits on a page.

    Attributes:
        models: all of them, without the galleries that do not fit.
        with_classes: all of them, without the records whose confusion matrices do not fit.
        galleries_left: number -> what to say where the images of a model would stand.
        classes_left: which matrices are left out and how to see them, in a sentence; empty when all fit.
    """

    models: list[PageModel]
    with_classes: list[PageModel]
    galleries_left: dict[int, str]
    classes_left: str


def fit(models: Sequence[PageModel], num_classes: int) -> Fitting:
    """Return what fits on the page of these models, in their order; the first with pictures keeps them."""
    sizes = [0 if model.gallery is None else _gallery_size(model.gallery) for model in models]
    stays = _first(sizes, MOST_OF_GALLERIES)
    shown = [model if fits else replace(model, gallery=None) for model, fits in zip(models, stays, strict=True)]
    left = {model.number: _left_gallery(model) for model, fits in zip(models, stays, strict=True) if not fits}
    records = [(model, each) for model in models for each in model.located]
    stays = _first([_classes_size(each, num_classes) for _, each in records], MOST_OF_CLASSES)
    kept = {id(each) for (_, each), fits in zip(records, stays, strict=True) if fits}
    thin = [replace(model, located=tuple(each for each in model.located if id(each) in kept)) for model in shown]
    missing = [f"{model.name} ({each.record.probe})" for model, each in records if id(each) not in kept]
    return Fitting(shown, thin, left, _left_classes(missing))


def _first(sizes: Sequence[int], most: int) -> list[bool]:
    """Return which fit, one after the other; what takes nothing always does, and so does the first that takes any."""
    used, stays = 0, []
    for size in sizes:
        fits = not size or not used or used + size <= most
        used += size if fits else 0
        stays.append(fits)
    return stays


def _gallery_size(gallery: Gallery) -> int:
    levels, near = len(gallery.levels), gallery.neighbourhoods
    neighbours = min(len(near.index), MOST_QUERIES) * min(near.train_index.shape[-1], MOST_NEIGHBOURS)
    size: int = levels * (_PICTURE + neighbours * _NEIGHBOUR) + (_CURVES if gallery.training else 0)
    if gallery.masks is not None:
        copies = sum(len(gallery.images.get(("train", int(place)), b"")) for place in gallery.masks.index)
        size += len(gallery.masks.context) * (_PICTURE + 2 * copies)
    return size


def _classes_size(located: Located, num_classes: int) -> int:
    """Return how much the matrices of a record take, and the differences of its levels class by class."""
    record = located.record
    if record.predictions is None:
        return 0
    shown, levels = min(num_classes, MOST_CLASSES), len(record.levels)
    scores = {score.key for level in record.levels for score in level.scores if score.headline}
    cell = _CELL + (_NUMBER if shown <= MOST_WITH_NUMBERS else 0)
    return len(scores) * levels * (2 * _PICTURE + shown**2 * cell + shown * _CLASS)


def _left_gallery(model: PageModel) -> str:
    name = shlex.quote(model.located[0].record.model.name)
    return (
        "To keep the file small, only the models first in line have images and curves here; "
        f"hjepa report --format html --model {name} shows those of {model.name}."
    )


def _left_classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        f"To keep the file small, the confusion matrices of these are left out: {first_few(names, _MOST_NAMED)}. "
        "hjepa report --format html shows them when it is given the files of their records alone, or --model NAME."
    )

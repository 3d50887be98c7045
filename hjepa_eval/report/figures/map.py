"""Maps: where a level puts the test images, coloured by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.report.figures.drawing import NUM_SERIES, drawn, page_style, series, variable
from hjepa_eval.report.figures.svg import POINTS, WIDTH, Picture, canvas, inline_svg, listed
from hjepa_eval.report.tables.rounding import percent
from hjepa_eval.results.gallery import Gallery, LevelMap

_DIAMETER = 5.0
_NAMED = 3


def map_picture(gallery: Gallery, level_position: int, *, prefix: str) -> Picture:
    """Return the map of one level, a circle per image.

    The n-th circle is the image `gallery.map.index[n]`: in the group with the id `{prefix}points` it is the `<use>`
    with `data-point="n"`. Of more than 20 classes the 19 most frequent on the map have colours and the rest are grey.

    Args:
        gallery: of a model.
        level_position: place of the level in `gallery.levels`.
        prefix: begins the ids, unlike that of any other picture of the page.
    """
    number, name = gallery.levels[level_position]
    kind = gallery.map.method.partition(";")[0].split(" ")[0]
    named = ", ".join(part for part in (f"level {number}", name) if part)
    figure = draw_map(gallery.map, level_position, colours=_colour_names(gallery))
    return inline_svg(figure, title=f"{kind} of {named}", text=_describe(gallery, level_position, named), prefix=prefix)


def class_colours(gallery: Gallery) -> dict[int, str]:
    """Return the colour of each class on the maps of a gallery, such as `var(--series-3)`, for a legend."""
    return {label: variable(name) for label, name in enumerate(_colour_names(gallery))}


def grey_classes(gallery: Gallery) -> str:
    """Return how many classes on the maps of a gallery have no colour of their own; empty when all have."""
    names = _colour_names(gallery)
    grey = sum(names[label] == "rest" for label in np.unique(gallery.map.labels))
    return f"The {NUM_SERIES - 1} most frequent classes have colours, the other {grey} are grey." if grey else ""


def _colour_names(gallery: Gallery) -> list[str]:
    """Return the palette's name for each class: its own, or `rest`."""
    classes = len(gallery.class_names)
    if classes <= NUM_SERIES:
        return [series(label) for label in range(classes)]
    counts = np.bincount(gallery.map.labels, minlength=classes)
    frequent = np.argsort(-counts, kind="stable")[: NUM_SERIES - 1].tolist()
    places = {label: place for place, label in enumerate(frequent)}
    return [series(places[label]) if label in places else "rest" for label in range(classes)]


@page_style()
def draw_map(plane: LevelMap, level_position: int, *, colours: list[str]) -> Any:
    """Return a matplotlib figure of one level's points, both axes at one scale; `colours` has a name per class."""
    figure, panels = canvas(width=WIDTH, height=WIDTH - 10)
    panel = panels[0, 0]
    points = plane.points[level_position]
    panel.scatter(
        points[:, 0],
        points[:, 1],
        s=_DIAMETER**2,
        c=[drawn(colours[label]) for label in plane.labels.tolist()],
        linewidths=0,
        # All circles are in one group, and none is cut at the edge.
        clip_on=False,
        gid=POINTS,
    )
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xticks([])
    panel.set_yticks([])
    shares = plane.explained[level_position]
    if shares.any():
        panel.set_xlabel(f"{percent(shares[0])} % of the variance")
        panel.set_ylabel(f"{percent(shares[1])} % of the variance")
    for spine in panel.spines.values():
        spine.set(visible=True, color=drawn("grid"))
    return figure


def _describe(gallery: Gallery, level_position: int, named: str) -> str:
    plane = gallery.map
    counts = np.bincount(plane.labels, minlength=len(gallery.class_names))
    shares = plane.explained[level_position]
    spread = f" The axes carry {percent(shares[0])} and {percent(shares[1])} percent of the variance." * bool(
        shares.any()
    )
    grey = grey_classes(gallery)
    rest = f" {grey}" * bool(grey)
    near = _nearest_means(plane.points[level_position], plane.labels, gallery.class_names)
    return (
        f"Map of {named} of {gallery.model}: {len(plane.index):,} test images of {int((counts > 0).sum())} classes. "
        f"{plane.method[0].upper()}{plane.method[1:]}.{spread}{rest}{near}"
    )


def _nearest_means(points: NDArray[np.float32], labels: NDArray[np.int64], names: tuple[str, ...]) -> str:
    """Return which classes have the nearest middles on the map, the nearest first."""
    present = np.unique(labels)
    if len(present) < 2:
        return ""
    means = np.stack([points[labels == label].mean(axis=0) for label in present])
    ones, others = np.triu_indices(len(present), 1)
    order = np.argsort(np.linalg.norm(means[ones] - means[others], axis=1), kind="stable")[:_NAMED]
    pairs = [f"{names[present[ones[place]]]} with {names[present[others[place]]]}" for place in order]
    return f" Nearest to each other in the middle: {listed(pairs)}."

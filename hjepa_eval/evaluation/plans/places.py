"""Depth, correspondence and objects from one level's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.changes.changed import ChangedImages
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.findings import Finding, make_score
from hjepa_eval.evaluation.plans.token_level import TokenLevel, held_images, maps_of, sight_note
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.metrics.intervals import Interval, bootstrap_interval, wilson
from hjepa_eval.probes.dense.cells import IGNORED, Cells
from hjepa_eval.probes.dense.correspondence import cell_centres, match_cells
from hjepa_eval.probes.dense.depth import regress_depth
from hjepa_eval.probes.dense.discovery import Box, boxes_of, discover, parts_of


def tell_depth(row: LevelRow, seed: int, choosing: bool) -> Finding:
    """Return how well the depth of pixels is told from one level's tokens."""
    level = TokenLevel(row)
    known = {split: maps_of(level.images(split), "depth") for split in ("train", "test")}

    def depth(split: str) -> Callable[[int], NDArray[np.float32]]:
        places, read = level.tokens.index(split), known[split]

        def of(image: int) -> NDArray[np.float32]:
            values = read(int(places[image])).astype(np.float32)
            return np.where(values == IGNORED, np.float32(np.nan), values)

        return of

    def cells(split: str) -> Callable[[int], Cells]:
        places, read = level.tokens.index(split), known[split]

        def of(image: int) -> Cells:
            height, width = read(int(places[image])).shape
            return level.cells((height, width))

        return of

    found = regress_depth(
        level.rows("train"),
        level.rows("test"),
        (depth("train"), depth("test")),
        (cells("train"), cells("test")),
        held=held_images(level, seed, len(level.tokens.index("train"))),
    )
    ceiling = found.ceiling.interval(seed=seed)
    share = found.test.r2() / max(ceiling.value, 1e-12)
    rmse = found.test.rmse()
    images = len(found.test.pixels)
    return Finding(
        scores=(
            make_score("r2", found.test.interval(seed=seed), headline=True),
            make_score("ceiling", ceiling, of="r2", cells="soft"),
            make_score("share", Interval(share, share, share, images, "of the soft ceiling"), of="r2"),
            make_score("rmse", Interval(rmse, rmse, rmse, images, "")),
        ),
        outcomes={"r2": found.test.parts()},
        held_out={"r2": found.held_out.r2()} if choosing else {},
        held_out_outcomes={"r2": found.held_out.parts()} if choosing else {},
        chosen={"penalty": found.penalty, "held_out_r2": {f"{each:g}": value for each, value in found.tried.items()}},
        notes=sight_note(level),
    )


def correspond(row: LevelRow, seed: int, choosing: bool) -> Finding:
    """Return how many of one level's cells find themselves in warped images."""
    level = TokenLevel(row)
    (tokens, places), (warped, again) = level.beside("squares"), level.beside("warped")
    if not np.array_equal(places, again):
        raise ProbeError("other images could be read when they were warped; mend those that cannot be read")
    made = level.tokens.features.images["warped"]
    assert isinstance(made, ChangedImages)
    frame = level.frame((made.size, made.size))
    corner, side = np.array([frame.top, frame.left]), np.array([frame.bottom - frame.top, frame.right - frame.left])
    centres = (corner + cell_centres(level.grid) * side) / made.size
    change: Any = made.change
    targets = (change.targets(centres, places) * made.size - corner) / side
    found = match_cells(tokens, warped, targets, grid=level.grid)
    shares = {"within": found.within, "near": found.near}
    others = [
        make_score("chance", bootstrap_interval(found.chance, seed=seed), of="within"),
        make_score("near", bootstrap_interval(found.near, seed=seed), radius=0.1),
        make_score("chance", bootstrap_interval(found.near_chance, seed=seed), of="near"),
        make_score("ceiling", bootstrap_interval(found.near_ceiling, seed=seed), of="near", cells="nearest"),
    ]
    return Finding(
        scores=(make_score("within", bootstrap_interval(found.within, seed=seed), headline=True), *others),
        outcomes={"within": shares["within"], "near radius=0.1": shares["near"]},
        notes=("no level is chosen: correspondence takes no train images",) if choosing else (),
    )


def discover_objects(row: LevelRow, seed: int, choosing: bool) -> Finding:
    """Return in how many test images the box grown from one level's tokens meets an object."""
    level = TokenLevel(row)
    test, images, places = level.rows("test"), level.images("test"), level.tokens.index("test")
    mean = level.rows("train").mean()
    known = "instance" if "instance" in images.maps(0) else "class"
    maps = maps_of(images, known)
    right, possible = [], []
    start = 0
    for block in test.images(64):
        seen = [maps(int(place)) for place in places[start : start + len(block)]]
        boxes: list[list[Box]] = [boxes_of(each if known == "instance" else parts_of(each)) for each in seen]
        frames = [level.frame((each.shape[0], each.shape[1])) for each in seen]
        found = discover(block - mean, boxes, frames, grid=level.grid)
        right.append(found.right)
        possible.append(found.possible)
        start += len(block)
    outcome, best = np.concatenate(right), np.concatenate(possible)
    corloc, ceiling = (wilson(int(each.sum()), len(each)) for each in (outcome, best))
    share = corloc.value / max(ceiling.value, 1e-12)
    objects = "their parts" if known == "class" else "objects"
    return Finding(
        scores=(
            make_score("corloc", corloc, headline=True),
            make_score("ceiling", ceiling, of="corloc", cells="edges"),
            make_score("share", Interval(share, share, share, len(outcome), "of the ceiling"), of="corloc"),
        ),
        outcomes={"corloc": outcome},
        chosen={"boxes": f"of {objects} in the map of {known}"},
        notes=("no level is chosen: discovery takes no train labels",) if choosing else (),
    )

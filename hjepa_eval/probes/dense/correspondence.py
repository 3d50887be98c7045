"""Correspondence without labels: an image is warped by a known map, and each cell looks for itself in the warped one.

A cell finds the cell of the warped image whose token has the highest cosine. Where it ought to lie is known exactly, so
no annotation is needed, and any images will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.dense.token_rows import TokenRows

RADIUS = 0.1


@dataclass(frozen=True)
class Correspondence:
    """Shares of an image's cells that are matched right, float64 [N] each, one number per image.

    Attributes:
        within: matched to a cell whose centre is at most one cell away.
        near: matched to a cell whose centre is at most a tenth of the image away: the same length at every level.
        chance: `within` of a match drawn at random.
        near_chance: `near` of a match drawn at random.
        near_ceiling: `near` of a match with the nearest cell.
        images: int64 [N], those of which a cell stays in sight.
    """

    within: NDArray[np.float64]
    near: NDArray[np.float64]
    chance: NDArray[np.float64]
    near_chance: NDArray[np.float64]
    near_ceiling: NDArray[np.float64]
    images: NDArray[np.int64]


def cell_centres(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return (row, column) of each cell's centre in [0, 1], float64 [T, 2]."""
    rows, columns = ((np.arange(count) + 0.5) / count for count in grid)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def match_cells(
    tokens: TokenRows, warped: TokenRows, targets: NDArray[np.float64], *, grid: tuple[int, int]
) -> Correspondence:
    """Return how many cells of each image find themselves in the warped one.

    Cells whose target leaves the image are no part of it. Of equal cosines the first cell is taken.

    Args:
        tokens: of N images.
        warped: of the same images, warped.
        targets: float64 [N, T, 2], (row, column) in [0, 1] where each cell's centre lies in the warped image.
        grid: rows and columns of cells.

    Raises:
        ProbeError: no cell of any image stays in sight.
    """
    centres, size = cell_centres(grid), np.array(grid, dtype=np.float64)
    columns: list[list[float]] = []
    kept: list[int] = []
    start = 0
    for block, other in zip(tokens.images(64), warped.images(64), strict=True):
        found = best_matches(block, other)
        for image, match in enumerate(found, start):
            goal = targets[image]
            inside = ((goal >= 0) & (goal <= 1)).all(axis=1)
            if inside.any():
                columns.append(_shares(centres, match[inside], goal[inside], size))
                kept.append(image)
        start += len(block)
    if not kept:
        raise ProbeError("no cell of any image stays in sight under its warp; use images with a finer grid")
    within, near, chance, near_chance, near_ceiling = np.array(columns).T
    return Correspondence(within, near, chance, near_chance, near_ceiling, np.array(kept, dtype=np.int64))


def best_matches(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for tokens [B, T, D] the token of the same image in `second` with the highest cosine, int64 [B, T]."""
    cosines = np.matmul(_unit(first), _unit(second).transpose(0, 2, 1))
    return np.asarray(cosines.argmax(axis=2))


def _unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12))


def _shares(
    centres: NDArray[np.float64], match: NDArray[np.int64], goal: NDArray[np.float64], size: NDArray[np.float64]
) -> list[float]:
    apart = centres[None] - goal[:, None]
    in_cells = np.linalg.norm(apart * size, axis=2) <= 1.0
    in_image = np.linalg.norm(apart, axis=2) <= RADIUS
    rows = np.arange(len(match))
    return [
        float(in_cells[rows, match].mean()),
        float(in_image[rows, match].mean()),
        float(in_cells.mean()),
        float(in_image.mean()),
        float(in_image.any(axis=1).mean()),
    ]

"""Object discovery without labels: one box per image, grown from the token that is least like all others.

Source: Siméoni et al., "Localizing objects with self-supervised transformers and no labels" (LOST), BMVC 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hjepa_eval.probes.dense.cells import IGNORED, Frame

EXPANDED = 100
RIGHT_IOU = 0.5
# (top, left, bottom, right) in pixels, the last two behind the box.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Discovery:
    """Whether each image's box meets an object: IoU of at least a half with one of its boxes.

    Attributes:
        right: bool [N], of the box found.
        possible: bool [N], of the best box that has the grid's edges.
    """

    right: NDArray[np.bool_]
    possible: NDArray[np.bool_]


def seed_expansion(tokens: NDArray[np.float32], grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of the object that tokens [T, D] show: first row, first column, and those behind it, in cells.

    The seed is the token with the fewest non-negative products with others; of the tokens with few of them, those that
    resemble the seed vote for all tokens, and the box is that of the seed's connected part of those with a positive
    sum.

    Deviation: LOST takes the 100 tokens with the fewest relations of about 1,200; here an eighth of them, at most 100.
        Its tokens are keys of the last block; here they are a level's tokens.
    """
    products = tokens @ tokens.T
    degree = (products >= 0).sum(axis=1)
    order = np.argsort(degree, kind="stable")
    seed = int(order[0])
    few = order[: max(1, min(EXPANDED, len(tokens) // 8))]
    alike = few[products[seed, few] >= 0]
    chosen = products[:, np.union1d(alike, [seed])].sum(axis=1) > 0
    chosen[seed] = True
    parts, _ = ndimage.label(chosen.reshape(grid))
    rows, columns = np.nonzero(parts == parts[divmod(seed, grid[1])])
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


def boxes_of(instances: NDArray[np.uint8]) -> list[Box]:
    """Return the box of each object in a map [H, W] of their numbers; 0 is background and 255 is ignored."""
    numbers = [number for number in np.unique(instances) if number not in (0, IGNORED)]
    boxes: list[Box] = []
    for number in numbers:
        rows, columns = np.nonzero(instances == number)
        boxes.append((float(rows.min()), float(columns.min()), float(rows.max() + 1), float(columns.max() + 1)))
    return boxes


def parts_of(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a map of objects' numbers from one of classes: connected parts of a class, at most 254."""
    objects = np.zeros(classes.shape, np.uint8)
    count = 0
    for label in np.unique(classes):
        if label in (0, IGNORED):
            continue
        parts, number = ndimage.label(classes == label)
        for part in range(1, min(number, 254 - count) + 1):
            objects[parts == part] = count + part
        count = min(254, count + number)
    return objects


def box_iou(first: Box, second: Box) -> float:
    """Return the area of two boxes' intersection over that of their union."""
    high = min(first[2], second[2]) - max(first[0], second[0])
    wide = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, high) * max(0.0, wide)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (sum(areas) - common)


def in_pixels(cells: tuple[int, int, int, int], grid: tuple[int, int], frame: Frame) -> Box:
    """Return a box of cells in the pixels of the image."""
    high, wide = (frame.bottom - frame.top) / grid[0], (frame.right - frame.left) / grid[1]
    top, left, bottom, right = cells
    return (
        frame.top + top * high,
        frame.left + left * wide,
        frame.top + bottom * high,
        frame.left + right * wide,
    )


def best_on_grid(box: Box, grid: tuple[int, int], frame: Frame) -> float:
    """Return the highest IoU of a box with one that has the grid's edges: each edge moves to a neighbouring one."""
    high, wide = (frame.bottom - frame.top) / grid[0], (frame.right - frame.left) / grid[1]
    places = [
        ((box[0] - frame.top) / high, grid[0]),
        ((box[1] - frame.left) / wide, grid[1]),
        ((box[2] - frame.top) / high, grid[0]),
        ((box[3] - frame.left) / wide, grid[1]),
    ]
    edges = [{int(np.clip(edge, 0, most)) for edge in (np.floor(at), np.ceil(at))} for at, most in places]
    return max(
        (
            box_iou(box, in_pixels((top, left, bottom, right), grid, frame))
            for top in edges[0]
            for bottom in edges[2]
            for left in edges[1]
            for right in edges[3]
            if top < bottom and left < right
        ),
        default=0.0,
    )


def discover(
    tokens: NDArray[np.float32], boxes: Sequence[Sequence[Box]], frames: Sequence[Frame], *, grid: tuple[int, int]
) -> Discovery:
    """Return for each image whether its box is right, and whether the grid allows one that is.

    Args:
        tokens: float32 [B, T, D], centred.
        boxes: of each image's objects, in its pixels.
        frames: what the encoder sees of each image.
        grid: rows and columns of cells.
    """
    right, possible = [], []
    for each, known, frame in zip(tokens, boxes, frames, strict=True):
        guess = in_pixels(seed_expansion(each, grid), grid, frame)
        right.append(any(box_iou(guess, box) >= RIGHT_IOU for box in known))
        possible.append(any(best_on_grid(box, grid, frame) >= RIGHT_IOU for box in known))
    return Discovery(np.array(right, dtype=np.bool_), np.array(possible, dtype=np.bool_))

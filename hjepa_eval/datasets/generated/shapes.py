"""Shapes, colours and textures drawn in whole numbers, so that every machine draws the same bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("disc", "ring", "half", "square", "triangle", "cross")
ROUND = ("disc", "ring", "half")
# How many turns of one shape look alike; 0 where all do, so that it has no angle.
SYMMETRY = {"disc": 0, "ring": 0, "half": 1, "square": 4, "triangle": 3, "cross": 4}
COLOURS = {
    "red": (214, 48, 49),
    "orange": (240, 147, 43),
    "yellow": (241, 206, 54),
    "green": (46, 160, 67),
    "cyan": (34, 184, 190),
    "blue": (45, 92, 214),
    "purple": (142, 68, 173),
    "white": (236, 240, 241),
}
TEXTURES = ("plain", "stripes", "checks", "dots")
# Length of the unit of an object's own coordinates: an object reaches from -UNIT to UNIT.
UNIT = 1 << 10
_TURN = 1 << 14
# Subpixels a pixel has in each direction.
_FINE = 2


@dataclass(frozen=True)
class Sprite:
    """One object on a canvas.

    Attributes:
        rows: of the canvas that its box covers.
        columns: likewise.
        cover: how much of each pixel it covers, int64 `[h, w]`, 0 to `FULL`.
        shade: eighths of its colour that each pixel shows, int64 `[h, w]`.
    """

    rows: slice
    columns: slice
    cover: NDArray[np.int64]
    shade: NDArray[np.int64]


FULL = _FINE * _FINE


def _inside(shape: str, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which points of an object's own coordinates, int64, belong to the shape."""
    squared = x * x + y * y
    disc = squared <= UNIT * UNIT
    if shape == "disc":
        return disc
    if shape == "ring":
        return disc & (4 * squared >= UNIT * UNIT)
    if shape == "half":
        return disc & (y >= -UNIT // 4)
    # Corners lie on the circle: 724 is UNIT / sqrt(2), 887 is UNIT * sqrt(3) / 2.
    if shape == "square":
        return (abs(x) <= 724) & (abs(y) <= 724)
    if shape == "triangle":
        return (y <= UNIT // 2) & (UNIT * abs(x) * 2 <= (y + UNIT) * 1182)
    return ((abs(x) <= UNIT // 4) | (abs(y) <= UNIT // 4)) & (abs(x) <= 960) & (abs(y) <= 960)


def _shade(texture: str, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return eighths of the colour, 8 or 3, at points of an object's own coordinates."""
    period = UNIT // 2
    if texture == "stripes":
        dark = (x + 4 * UNIT) % period < period // 2
    elif texture == "checks":
        dark = ((x + 4 * UNIT) // (period // 2) + (y + 4 * UNIT) // (period // 2)) % 2 == 0
    elif texture == "dots":
        across, down = (x + 4 * UNIT) % period - period // 2, (y + 4 * UNIT) % period - period // 2
        dark = across * across + down * down <= (period * 5 // 16) ** 2
    else:
        dark = np.zeros(x.shape, bool)
    return np.where(dark, 3, 8)


def draw_sprite(
    shape: str | NDArray[np.int64], *, texture: str, centre: tuple[int, int], radius: int, angle: int, size: int
) -> Sprite:
    """Return one object as coverage and shade of the pixels around it.

    Args:
        shape: a name of `SHAPES`, or the ink of a picture, int64 `[h, w]` of 0 to 16, that is the object.
        texture: a name of `TEXTURES`.
        centre: row and column, in subpixels.
        radius: of the circle around it, in subpixels.
        angle: degrees, counted from the rows' axis towards the columns' axis.
        size: pixels of the canvas in each direction.
    """
    first = [max(0, (middle - radius) // _FINE) for middle in centre]
    last = [min(size, (middle + radius) // _FINE + 1) for middle in centre]
    rows, columns = (slice(low, max(low, high)) for low, high in zip(first, last, strict=True))
    # Twice the distance from a subpixel's middle to the centre, in subpixels.
    down = (2 * np.arange(_FINE * rows.start, _FINE * rows.stop, dtype=np.int64) + 1 - 2 * centre[0])[:, None]
    across = (2 * np.arange(_FINE * columns.start, _FINE * columns.stop, dtype=np.int64) + 1 - 2 * centre[1])[None, :]
    sine, cosine = (round(_TURN * turn(math.radians(angle))) for turn in (math.sin, math.cos))
    scale = 2 * radius * _TURN
    x = (UNIT * (cosine * across + sine * down)) // scale
    y = (UNIT * (cosine * down - sine * across)) // scale
    ink = 16 * _inside(shape, x, y).astype(np.int64) if isinstance(shape, str) else _picture(shape, x, y)
    box = (rows.stop - rows.start, _FINE, columns.stop - columns.start, _FINE)
    cover = ink.reshape(box).sum(axis=(1, 3)) // 16
    shade = _shade(texture, x, y).reshape(box).sum(axis=(1, 3)) // FULL
    return Sprite(rows, columns, cover, shade)


def _picture(ink: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ink, 0 or 16, at points: the picture fills the square inside the circle, and ends at half its ink."""
    height, width = ink.shape
    # 64 steps between two of the picture's pixels, whose middles are half a pixel from its border.
    down, across = (y + 724) * 64 * height // 1448 - 32, (x + 724) * 64 * width // 1448 - 32
    row, column = down // 64, across // 64
    padded = np.pad(ink, 1)

    def at(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        return padded[np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)]

    low, left = down - 64 * row, across - 64 * column
    above = at(row, column) * (64 - left) + at(row, column + 1) * left
    below = at(row + 1, column) * (64 - left) + at(row + 1, column + 1) * left
    return np.where(above * (64 - low) + below * low >= 7 * 64 * 64, 16, 0)

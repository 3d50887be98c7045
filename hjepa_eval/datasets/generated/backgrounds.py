"""Backgrounds of generated scenes: cut from two real photographs, or drawn in whole numbers."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

BACKGROUNDS = ("temple", "flower", "clouds", "gradient", "grid", "speckle")
_PHOTOGRAPHS = {"temple": "china.jpg", "flower": "flower.jpg"}
_CORNERS = 5


@cache
def _photograph(name: str) -> NDArray[np.uint8]:
    """Return a photograph that scikit-learn ships, uint8 `[427, 640, 3]`."""
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(name))


@cache
def pictures_hash() -> str:
    """Return the hash of the photographs' pixels, which a decoder may read otherwise elsewhere."""
    return hashlib.sha256(b"".join(_photograph(name).tobytes() for name in _PHOTOGRAPHS.values())).hexdigest()


def draw_background(kind: str, draws: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
    """Return one background, int64 `[size, size, 3]` of 0 to 255.

    Args:
        kind: a name of `BACKGROUNDS`.
        draws: at least 80 random numbers of 0 to 65,535 that decide the rest.
        size: pixels in each direction, at most 256.
    """
    if kind in _PHOTOGRAPHS:
        picture = _photograph(_PHOTOGRAPHS[kind])
        row, column = draws[0] % (picture.shape[0] - size), draws[1] % (picture.shape[1] - size)
        return picture[row : row + size, column : column + size].astype(np.int64)
    light, dark = 70 + draws[2:5] % 130, 30 + draws[5:8] % 110
    steps = np.arange(size, dtype=np.int64)
    down, across = steps[:, None], steps[None, :]
    if kind == "gradient":
        weight = (down * (draws[8] % 256) + across * (draws[9] % 256)) // (2 * size)
    elif kind == "grid":
        period = 4 + draws[8] % 5
        weight = 255 * (((down + draws[9]) % period == 0) | ((across + draws[10]) % period == 0)).astype(np.int64)
    elif kind == "clouds":
        weight = _clouds(draws[8 : 8 + _CORNERS * _CORNERS] % 256, size)
    else:
        # A hash of the place: as many numbers as pixels, from one.
        mixed = (down * 374_761_393 + across * 668_265_263 + draws[8] * 2_246_822_519) % (1 << 32)
        mixed = ((mixed ^ (mixed >> 13)) * 1_274_126_177) % (1 << 32)
        weight = (mixed >> 16) % 256
    return np.asarray((light * weight[..., None] + dark * (255 - weight[..., None])) // 255)


def _clouds(corners: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return a bilinear surface, int64 `[size, size]` of 0 to 255, through a lattice of corner values."""
    lattice = corners.reshape(_CORNERS, _CORNERS)
    places = np.arange(size, dtype=np.int64) * (_CORNERS - 1)
    cell, part = places // size, places % size
    above = lattice[cell][:, cell] * (size - part) + lattice[cell][:, cell + 1] * part
    below = lattice[cell + 1][:, cell] * (size - part) + lattice[cell + 1][:, cell + 1] * part
    return np.asarray((above * (size - part)[:, None] + below * part[:, None]) // (size * size))

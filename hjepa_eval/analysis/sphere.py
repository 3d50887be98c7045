"""How features lie on the sphere: spread evenly, views of one image near each other, no image near to all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError

_BLOCK = 1024


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rows of features `[N, D]` scaled to length 1 in float64; rows of zeros stay zero."""
    rows = np.asarray(features, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1))


def uniformity(features: NDArray[np.floating]) -> float:
    """Return `log mean exp(-2 ||x - y||^2)` over all pairs of different rows of unit length; 0 when all are one vector.

    It depends on N only through sampling noise. Of a uniform sphere of many dimensions it nears -4.

    Source: Wang and Isola, ICML 2020 (arXiv:2005.10242), with t = 2.
    """
    rows = unit_rows(features)
    if len(rows) < 2:
        raise ProbeError("uniformity needs at least 2 images")
    total = 0.0
    for start in range(0, len(rows), _BLOCK):
        squares = np.maximum(0, 2 - 2 * rows[start : start + _BLOCK] @ rows.T)
        total += float(np.exp(-2 * squares).sum())
    # Each row's distance to itself is 0, whatever rounding makes of it.
    return float(np.log((total - len(rows)) / (len(rows) * (len(rows) - 1))))


def alignment(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the mean squared distance of two views of each image, both `[N, D]`, after scaling to length 1.

    Source: Wang and Isola, ICML 2020, with alpha = 2.
    """
    if first.shape != second.shape:
        raise ProbeError(f"two views of the same images have one shape, found {first.shape} and {second.shape}")
    return float(((unit_rows(first) - unit_rows(second)) ** 2).sum(axis=1).mean())


def hubness(neighbours: NDArray[np.int64], *, images: int | None = None) -> float:
    """Return the skewness of how often each image is a neighbour of others: 0 for chance, large where hubs exist.

    Args:
        neighbours: indices `[N, k]` into `images` images.
        images: how many there are to be named; N when not given.

    Source: Radovanovic, Nanopoulos and Ivanovic, JMLR 2010, equation 1.
    """
    counts = np.bincount(neighbours.ravel(), minlength=images or len(neighbours)).astype(np.float64)
    centred = counts - counts.mean()
    deviation = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0

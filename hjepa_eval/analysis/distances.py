"""Distances between rows, each formed by differences in float64, so that a common part of all rows cancels exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError

# Candidates beyond those asked for: the quick distances that choose them may err in the last digits.
_SPARE = 8
_BLOCK_BYTES = 64 << 20


def nearest_rows(features: NDArray[np.floating], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each row its `count` nearest other rows and their distances, `[N, count]`, nearest first.

    Candidates come from matrix products of centred rows; their distances are then formed anew by differences. Ties go
    to the lower index.

    Args:
        features: `[N, D]`, finite.
        count: neighbours of each row, below N.

    Raises:
        ProbeError: there are not so many other rows.
    """
    rows = np.asarray(features, dtype=np.float64)
    if not 1 <= count < len(rows):
        raise ProbeError(f"{count} neighbours of each of {len(rows)} images; give more images or fewer neighbours")
    rows = rows - rows.mean(axis=0)
    taken = min(count + _SPARE, len(rows) - 1)
    indices = np.empty((len(rows), count), dtype=np.int64)
    distances = np.empty((len(rows), count))
    for start, squares in _squared_blocks(rows):
        block = np.arange(len(squares))
        squares[block, start + block] = np.inf
        candidates = np.sort(np.argpartition(squares, taken - 1, axis=1)[:, :taken], axis=1)
        exact = np.empty(candidates.shape)
        for part in _parts(len(candidates), taken * rows.shape[1] * 8):
            differences = rows[candidates[part]] - rows[start + block[part], None]
            exact[part] = np.sqrt(np.einsum("nkd,nkd->nk", differences, differences))
        order = np.argsort(exact, axis=1, kind="stable")[:, :count]
        indices[start : start + len(block)] = np.take_along_axis(candidates, order, axis=1)
        distances[start : start + len(block)] = np.take_along_axis(exact, order, axis=1)
    return indices, distances


def pair_distances(features: NDArray[np.floating], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance between rows `pairs[:, 0]` and `pairs[:, 1]` of features `[N, D]`, float64 `[P]`."""
    rows = np.asarray(features, dtype=np.float64)
    distances = np.empty(len(pairs))
    for part in _parts(len(pairs), rows.shape[1] * 16):
        differences = rows[pairs[part, 0]] - rows[pairs[part, 1]]
        distances[part] = np.sqrt(np.einsum("nd,nd->n", differences, differences))
    return distances


def _parts(count: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    yield from (slice(start, start + step) for start in range(0, count, step))


def _squared_blocks(rows: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield (first row, squared distances to all rows) block by block, by the quick formula."""
    norms = np.einsum("nd,nd->n", rows, rows)
    for part in _parts(len(rows), 8 * len(rows)):
        yield part.start, norms[part, None] + norms[None, :] - 2 * rows[part] @ rows.T

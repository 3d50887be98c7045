"""Intrinsic dimension: how many numbers it takes to say where an image lies among the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.distances import nearest_rows, pair_distances
from hjepa_eval.errors import ProbeError

NEIGHBOURS = 20
# The share of the largest ratios that TwoNN leaves out.
_DISCARDED = 0.1
# Pairs of which the correlation sum is made, and the shares of them between whose distances the slope is taken.
_PAIRS = 2_000_000
_NEAR, _FAR = 5e-4, 2e-2


@dataclass(frozen=True)
class Dimension:
    """An estimate of intrinsic dimension.

    Attributes:
        value: NaN where it cannot be told: all rows alike.
        num_samples: rows it rests on.
        duplicates: rows left out because another one is the very same.
    """

    value: float
    num_samples: int
    duplicates: int


def _distinct(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], int]:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ProbeError(f"a dimension needs finite features [N, D], found shape {rows.shape}")
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)], len(rows) - len(first)


def two_nn(features: NDArray[np.floating]) -> Dimension:
    """Return the slope of `-log(1 - F)` over `log(r2 / r1)`, through the origin, over the lower nine tenths.

    Biased low where the dimension is high: of 10 dimensions 7.9 with 500 rows, 8.8 with 8,000; of 20, 14 to 16.

    Args:
        features: `[N, D]`; equal rows count once.

    Raises:
        ProbeError: features that are not finite.

    Source: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 2017, section "Methods".
    """
    rows, duplicates = _distinct(features)
    if len(rows) < 3:
        return Dimension(float("nan"), len(rows), duplicates)
    distances = nearest_rows(rows, 2)[1]
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = ratios[: max(1, int(len(ratios) * (1 - _DISCARDED)))]
    heights = -np.log1p(-np.arange(1, len(kept) + 1) / len(ratios))
    spread = float(kept @ kept)
    return Dimension(float(kept @ heights) / spread if spread else float("nan"), len(rows), duplicates)


def maximum_likelihood(features: NDArray[np.floating], *, neighbours: int = NEIGHBOURS) -> Dimension:
    """Return Levina and Bickel's estimate from each row's `neighbours`, averaged as inverses.

    Biased low where the dimension is high, as `two_nn` is.

    Args:
        features: `[N, D]`; equal rows count once.
        neighbours: k of the source.

    Raises:
        ProbeError: features that are not finite.

    Source: Levina and Bickel, NIPS 2004, equation 8; MacKay and Ghahramani 2005, comment on it, for the average and the
        divisor k - 1.
    """
    rows, duplicates = _distinct(features)
    near = min(neighbours, len(rows) - 1)
    if near < 2:
        return Dimension(float("nan"), len(rows), duplicates)
    distances = nearest_rows(rows, near)[1]
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    mean = float(logs.mean())
    return Dimension(1 / mean if mean else float("nan"), len(rows), duplicates)


def correlation_dimension(features: NDArray[np.floating], *, seed: int = 0) -> Dimension:
    """Return the slope of log C(r) over log r, where C(r) is the share of pairs nearer than r.

    The slope is that of least squares at 20 radii, evenly apart in log C, from the nearest 1 in 2,000 pairs to the
    nearest 1 in 50: near enough that edges of the cloud hardly count, with enough pairs to tell. Both logarithms have
    one base.

    Args:
        features: `[N, D]`; equal rows count once.
        seed: of the pairs drawn where there are more than two million.

    Raises:
        ProbeError: features that are not finite.

    Source: Grassberger and Procaccia, Physical Review Letters 1983.
    """
    rows, duplicates = _distinct(features)
    if len(rows) < 10:
        return Dimension(float("nan"), len(rows), duplicates)
    distances = np.sort(pair_distances(rows, _pairs(len(rows), seed)))
    shares = np.geomspace(_NEAR, _FAR, 20)
    ranks = np.unique(np.maximum(1, np.round(shares * len(distances)).astype(np.int64)))
    x, y = np.log(distances[ranks - 1]), np.log(ranks)
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    return Dimension(float(x @ y) / spread if spread else float("nan"), len(rows), duplicates)


def _pairs(count: int, seed: int) -> NDArray[np.int64]:
    """Return all pairs of rows, or two million drawn among them, int64 `[P, 2]`."""
    total = count * (count - 1) // 2
    if total <= _PAIRS:
        return np.column_stack(np.triu_indices(count, 1)).astype(np.int64)
    generator = np.random.default_rng(seed)
    first = generator.integers(count, size=_PAIRS)
    second = (first + 1 + generator.integers(count - 1, size=_PAIRS)) % count
    return np.column_stack([first, second]).astype(np.int64)

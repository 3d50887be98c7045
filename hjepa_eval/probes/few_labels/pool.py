"""The pool of images that episodes are drawn from: moved to where float32 compares them, and compared exactly.

Features of a collapsed encoder are a large common part and small differences, and a product of two such rows in float32
is all common part. So rows are transformed in float64 and the middle of the pool is taken off before they become
float32; what float32 still cannot tell apart is decided again in float64, from differences of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.samples import zero_rows_note
from hjepa_eval.probes.search.bank import middle_of, spread_rows, unit_rows

_PART_ROWS = 4096
# Above the rounding of a float32 product less half a square, as a share of the squares of its rows.
_NEAR = 1e-6
# Distances that agree to this share are equal, and the first of the classes is taken.
_TIE = 1e-11
_EXACT_ELEMENTS = 1 << 22
# Squares of larger numbers leave the range of float32.
_FARTHEST = 1e15


@dataclass(frozen=True)
class Pool:
    """Features of a pool under a classifier's transform.

    Attributes:
        given: float32 [N, D], as they were given.
        transform: float64 rows [M, D] as given -> float64 rows [M, D].
        rows: float32 [N, D], transformed, less the middle of the pool.
    """

    given: torch.Tensor
    transform: Callable[[torch.Tensor], torch.Tensor]
    rows: torch.Tensor

    def exact(self, index: torch.Tensor) -> torch.Tensor:
        """Return the transformed rows at `index` [...] as float64 [..., D]."""
        rows = self.transform(self.given[index.flatten()].to(torch.float64))
        return rows.view(*index.shape, rows.shape[1])


def make_pool(
    features: NDArray[np.float32], *, unit: bool, rescale: bool, base_mean: NDArray[np.floating] | None = None
) -> tuple[Pool, tuple[str, ...]]:
    """Return the pool of `features` [N, D], and notes about it.

    Args:
        features: as given.
        unit: whether rows are divided by their norms.
        rescale: whether they may be divided by their common size besides: distances do not feel it, penalties do.
        base_mean: [D], subtracted first.

    Raises:
        ProbeError: the base mean has another width.
    """
    given = torch.from_numpy(features)
    base = None
    if base_mean is not None:
        if base_mean.shape != (given.shape[1],):
            width = given.shape[1]
            raise ProbeError(f"base_mean has shape {list(base_mean.shape)}; expected [{width}], as the features")
        base = torch.from_numpy(np.asarray(base_mean, dtype=np.float64))

    def transform(rows: torch.Tensor) -> torch.Tensor:
        moved = rows if base is None else rows - base
        return unit_rows(moved) if unit else moved

    sample = given[torch.from_numpy(spread_rows(len(given)))]
    middle, size = middle_of(transform(sample.to(torch.float64)))
    rows = torch.empty(given.shape)
    zeros = []
    for part, out in zip(torch.split(given, _PART_ROWS), torch.split(rows, _PART_ROWS), strict=True):
        exact = transform(part.to(torch.float64))
        if unit:
            zeros.append(exact.any(dim=1).numpy())
        moved = exact.sub_(middle) if base is not None or unit else exact - middle
        out.copy_((moved.div_(size) if rescale else moved).clamp_(-_FARTHEST, _FARTHEST))
    notes = zero_rows_note(np.concatenate(zeros)[:, None], "few-shot") if zeros else ()
    return Pool(given, transform, rows), notes


def settle(
    pool: Pool, support: torch.Tensor, queries: torch.Tensor, scores: torch.Tensor, guesses: torch.Tensor
) -> None:
    """Decide again in float64, into `guesses` [E, Q], what `scores` of the nearest centroid cannot decide.

    Args:
        pool: of the images.
        support: int64 [E, W, S].
        queries: int64 [E, Q].
        scores: float32 [E, Q, W], q.c - |c|^2 / 2 of the pool's rows.
        guesses: int64 [E, Q], the best of them.
    """
    squares = pool.rows.square().sum(dim=1)
    # |c|^2 is at most the largest square of its support, |q||c| at most half the sum of their squares.
    bound = _NEAR * (squares[queries] + 2 * squares[support.flatten(1)].amax(dim=1, keepdim=True))
    best = scores.amax(dim=2, keepdim=True)
    near = ~((best - scores > bound[:, :, None]).sum(dim=2) == scores.shape[2] - 1)
    unsure = torch.nonzero(near.any(dim=1))[:, 0]
    if not len(unsure):
        return
    rows = (support.shape[1] + 1) * (support[0].numel() + queries.shape[1])
    for episode in torch.split(unsure, max(1, _EXACT_ELEMENTS // (rows * pool.rows.shape[1]))):
        guesses[episode] = torch.where(
            near[episode], _exact(pool, support[episode], queries[episode]), guesses[episode]
        )


def _exact(pool: Pool, support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return the class [E, Q] whose mean is nearest, of equally near ones the first."""
    shown, asked = pool.exact(support), pool.exact(queries)
    # Means of differences from a sample: a mean of the numbers themselves would keep no more of them than float64 has.
    first = shown[:, :1, :1]
    centroids = (shown - first).mean(dim=2)
    distance = torch.cdist(asked - first[:, 0], centroids, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.amin(dim=2, keepdim=True)
    return (distance <= nearest * (1 + _TIE)).to(torch.int8).argmax(dim=2)

"""What chance alone would give: permuted images, a calibrated value, and a p-value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError

PERMUTATIONS = 200
LEVEL = 0.05


@dataclass(frozen=True)
class Calibrated:
    """A similarity beside what permuted images give.

    Attributes:
        value: as measured.
        null_mean: mean over permutations.
        threshold: what all but 5 % of permutations stay below.
        calibrated: `(value - threshold) / (1 - threshold)`, not below 0.
        p_value: share of permutations, the one measured among them, that reach the value.
    """

    value: float
    null_mean: float
    threshold: float
    calibrated: float
    p_value: float


def calibrate(value: float, null: NDArray[np.float64], *, largest: float = 1.0) -> Calibrated:
    """Return a value beside its null values `[K]`.

    Source: the order-statistic threshold and the p-value of permutation tests (Phipson and Smyth 2010), with the
        calibration of "Revisiting the Platonic Representation Hypothesis" (Aristotelian, ICML 2026).
    """
    ordered = np.sort(null)
    rank = math.ceil((1 - LEVEL) * (len(ordered) + 1))
    threshold = float(ordered[min(rank, len(ordered)) - 1])
    share = (value - threshold) / (largest - threshold) if threshold < largest else 0.0
    # Rounding must not turn a tie into a lesser value.
    reached = int((null >= value - 1e-12 * max(1.0, abs(value))).sum())
    return Calibrated(
        value=value,
        null_mean=float(null.mean()),
        threshold=threshold,
        calibrated=min(1.0, max(0.0, share)),
        p_value=(1 + reached) / (1 + len(ordered)),
    )


def permutations(
    count: int, *, times: int = PERMUTATIONS, seed: int = 0, labels: NDArray[np.int64] | None = None
) -> Callable[[], list[NDArray[np.int64]]]:
    """Return a function that draws the same permutations of `count` images each time, int64 `[count]` each.

    Args:
        count: images.
        times: permutations.
        seed: of the draw.
        labels: int64 `[count]`; images change places only within their class, so that what remains is agreement
            beyond the label.

    Raises:
        ProbeError: labels of another length.
    """
    if labels is not None and len(labels) != count:
        raise ProbeError(f"{len(labels)} labels for {count} images; give one each")

    def draw() -> list[NDArray[np.int64]]:
        generator = np.random.default_rng(seed)
        if labels is None:
            return [generator.permutation(count) for _ in range(times)]
        order = np.argsort(labels, kind="stable")
        drawn = []
        for _ in range(times):
            # Sorting random numbers within each class shuffles the class.
            shuffled = np.lexsort((generator.random(count), labels))
            permutation = np.empty(count, dtype=np.int64)
            permutation[order] = shuffled
            drawn.append(permutation)
        return drawn

    return draw


def neighbour_null(
    first: NDArray[np.int64], second: NDArray[np.int64], draws: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return mutual-kNN `[K]` of `first` with `second` under each permutation of the second's images, without a search.

    To permute the images only relabels their neighbour lists: image i has the list of image p(i), whose members carry
    the numbers that p gives them. So image i shares j with its list just if p(j) is a neighbour of p(i).

    Args:
        first: neighbours' indices, int64 `[N, k]`.
        second: likewise.
        draws: permutations, int64 `[N]` each.
    """
    count, near = second.shape
    pairs = np.zeros((count * count + 7) // 8, dtype=np.uint8)
    keys = (np.arange(count, dtype=np.int64)[:, None] * count + second).ravel()
    np.bitwise_or.at(pairs, keys >> 3, (1 << (keys & 7)).astype(np.uint8))
    owners, members = np.repeat(np.arange(count), first.shape[1]), first.ravel()
    values = np.empty(len(draws))
    for number, permutation in enumerate(draws):
        asked = permutation[owners] * count + permutation[members]
        values[number] = ((pairs[asked >> 3] >> (asked & 7).astype(np.uint8)) & 1).sum() / (count * near)
    return values

"""Whether one level is only a linear map of another: if so, a table by level measures nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError


def linear_map_r2(
    source: NDArray[np.floating], target: NDArray[np.floating], *, fraction: float = 0.5, seed: int = 0
) -> float:
    """Return the held-out R2 of the best affine map from `source` to `target`: 1 when a map gives all of it.

    The map is fitted by least squares on a random part of the samples and scored on the rest; R2 is one minus the
    squared error over the variance of the target, summed over its dimensions.

    Args:
        source: features `[N, D]`; the part used for fitting should hold several times D samples.
        target: features `[N, E]` of the same samples.
        fraction: part of the samples used for fitting.
        seed: of that choice.

    Raises:
        ProbeError: the arrays hold different numbers of samples, or the fitting part has no more samples than D.
    """
    if len(source) != len(target):
        raise ProbeError(f"source has {len(source)} samples and target {len(target)}; give the same images")
    order = np.random.default_rng(seed).permutation(len(source))
    fitted, held_out = np.split(order, [round(fraction * len(order))])
    if len(fitted) <= source.shape[1] + 1:
        raise ProbeError(f"{len(fitted)} samples cannot fit a map from {source.shape[1]} dimensions; give more images")
    design = np.column_stack([source, np.ones(len(source))]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design[fitted], target[fitted].astype(np.float64), rcond=1e-6)
    error = target[held_out] - design[held_out] @ solution
    spread = target[held_out] - target[fitted].mean(axis=0)
    return float(1 - (error**2).sum() / (spread**2).sum())

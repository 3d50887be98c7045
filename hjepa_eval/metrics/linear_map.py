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
    design, wanted = _about_mean(source, fitted), _about_mean(target, fitted)
    solution, *_ = np.linalg.lstsq(design[fitted], wanted[fitted], rcond=1e-6)
    spread = wanted[held_out]
    error = spread - design[held_out] @ solution
    return float(1 - (error**2).sum() / (spread**2).sum())


def _about_mean(rows: NDArray[np.floating], fitted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `rows` less the mean of those `fitted`, in their size: a common part would hide all others."""
    exact = rows.astype(np.float64)
    exact -= exact[fitted].mean(axis=0)
    return exact / (np.abs(exact[fitted]).max() or 1.0)

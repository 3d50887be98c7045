"""Calibration: how far stated confidence is from accuracy, before and after one temperature is fitted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities float64 [N, C] of `logits` [N, C] divided by `temperature`."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponential = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0
) -> float:
    """Return the mean of -log p(label), natural logarithm."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    total = np.logaddexp.reduce(scaled, axis=1)
    return float((total - scaled[np.arange(len(labels)), labels]).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = 15
) -> float:
    """Return the mean over samples of |accuracy - confidence| of their bin, in [0, 1].

    Bins of equal width in the confidence (the largest probability); a confidence on an edge belongs to the bin below.

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, eq. 3, with its 15 bins.

    Raises:
        ProbeError: no samples, or fewer than one bin.
    """
    if len(labels) == 0 or bins < 1:
        raise ProbeError(f"calibration needs at least one sample and one bin, found {len(labels)} and {bins}")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood; fit it on held-out data, never on test.

    The likelihood is convex in 1 / T, so bisection on its slope, mean(z_label) - mean(sum_c p_c z_c), finds the
    minimum; where there is none inside [0.01, 100] (all right, or all wrong) the end is returned.

    Source: Guo et al., arXiv:1706.04599, section 4.2.

    Raises:
        ProbeError: no samples, or logits that are not finite.
    """
    exact = np.asarray(logits, dtype=np.float64)
    if len(labels) == 0 or not np.isfinite(exact).all():
        raise ProbeError("a temperature is fitted on at least one sample with finite logits")
    own = exact[np.arange(len(labels)), labels].mean()
    low, high = -np.log(100), np.log(100)  # log(1 / T)
    for _ in range(60):
        middle = (low + high) / 2
        expected = (softmax(exact, float(np.exp(-middle))) * exact).sum(axis=1).mean()
        low, high = (middle, high) if own >= expected else (low, middle)
    return float(np.exp(-(low + high) / 2))

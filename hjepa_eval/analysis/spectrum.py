"""How many directions features fill: measures of the eigenvalues of their covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError

# Relative to the largest eigenvalue: float64 cannot tell smaller ones from zero.
_ROUNDING = 1e-14
# Eigenvalues that alpha-ReQ is fitted to, counted from the largest.
ALPHA_FIRST, ALPHA_LAST = 5, 100


@dataclass(frozen=True)
class Slope:
    """A power law fitted to eigenvalues: `value` of l_k ~ k^-value over ranks `first` to `last`, and its R2."""

    value: float
    first: int
    last: int
    r2: float


def covariance_eigenvalues(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance of features `[N, D]`, float64 `[min(N, D)]`, falling, none negative.

    The mean row is subtracted in float64 before anything is squared, so that a common part of all features, however
    large, changes nothing. Eigenvalues that rounding alone could make are 0.

    Raises:
        ProbeError: fewer than two rows, or features that are not finite.
    """
    exact = np.asarray(features, dtype=np.float64)
    if exact.ndim != 2 or len(exact) < 2:
        raise ProbeError(f"a spectrum needs features [N, D] of at least 2 images, found shape {exact.shape}")
    if not np.isfinite(exact).all():
        raise ProbeError("features hold NaN or infinity; see 'hjepa cache verify'")
    largest = np.abs(exact).max()
    centred = exact - exact.mean(axis=0)
    scale = np.abs(centred).max()
    # What is left of identical rows is the rounding of their mean.
    if scale <= 4 * np.finfo(np.float64).eps * largest:
        return np.zeros(min(exact.shape))
    centred /= scale
    gram = centred.T @ centred if len(exact) > exact.shape[1] else centred @ centred.T
    values = np.linalg.eigvalsh(gram)[::-1]
    kept = np.where(values > _ROUNDING * values[0], values, 0.0)
    return np.asarray(kept * (scale * scale / (len(exact) - 1)))


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = weights.sum()
    return weights[weights > 0] / total if total > 0 else np.empty(0)


def _exponential_entropy(weights: NDArray[np.float64]) -> float:
    shares = _shares(weights)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def rankme(eigenvalues: NDArray[np.float64]) -> float:
    """Return RankMe, the exponential of the entropy of the singular values' shares; 0 where there is nothing.

    Source: Garrido et al., "RankMe", ICML 2023 (arXiv:2210.02885), equations 1 and 2.
    Deviation: of centred features, since one common vector would rule the value; nothing is added to the shares.
    """
    return _exponential_entropy(np.sqrt(eigenvalues))


def effective_rank(eigenvalues: NDArray[np.float64]) -> float:
    """Return the exponential of the entropy of the variances' shares; 0 where there is nothing.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, of the covariance matrix.
    """
    return _exponential_entropy(eigenvalues)


def participation_ratio(eigenvalues: NDArray[np.float64]) -> float:
    """Return `(sum l)^2 / sum l^2`; 0 where there is nothing.

    Source: Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", 2017.
    """
    shares = _shares(eigenvalues)
    return float(1 / (shares**2).sum()) if len(shares) else 0.0


def nesum(eigenvalues: NDArray[np.float64]) -> float:
    """Return the sum of eigenvalues over the largest, `sum l / l_1`; 0 where there is nothing.

    It is also the stable rank of the centred features, `||X||_F^2 / ||X||_2^2`.

    Source: He and Ozay, "Exploring the gap between collapsed and whitened features", ICML 2022.
    """
    return float(eigenvalues.sum() / eigenvalues[0]) if len(eigenvalues) and eigenvalues[0] > 0 else 0.0


def alpha_req(eigenvalues: NDArray[np.float64]) -> Slope | None:
    """Return the power law of the spectrum, fitted by least squares to log l_k over log k; None for under 3 points.

    The range is ranks 5 to 100, or to a half of those that are not zero; it decides the value, so it is returned too.

    Source: Agrawal et al., "alpha-ReQ", NeurIPS 2022.
    """
    positive = eigenvalues[eigenvalues > 0]
    last = min(ALPHA_LAST, len(positive) // 2)
    if last - ALPHA_FIRST < 2:
        return None
    ranks = np.arange(ALPHA_FIRST, last + 1)
    x, y = np.log(ranks), np.log(positive[ranks - 1])
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    spread = float(y @ y)
    # A flat spectrum is fitted exactly by slope 0.
    r2 = 1.0 if spread == 0 else 1 - float(((y - slope * x) ** 2).sum()) / spread
    return Slope(-slope, ALPHA_FIRST, last, r2)

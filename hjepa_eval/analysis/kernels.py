"""Likeness of two views of the same images by kernels `[N, N]`: RBF-CKA, CKNNA and RSA, asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.agreement import NEIGHBOURS, procrustes, same_images
from hjepa_eval.analysis.sphere import unit_rows

Array = NDArray[np.float64]


def unbiased_hsic(first: Array, second: Array) -> float:
    """Return HSIC_1 of two kernels `[N, N]`, times `N (N - 3)`; their diagonals count as 0.

    Source: Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 5.
    """
    count = len(first)
    one, other = (kernel - np.diag(np.diag(kernel)) for kernel in (first, second))
    totals = float(one.sum()) * float(other.sum()) / ((count - 1) * (count - 2))
    cross = float(one.sum(axis=0) @ other.sum(axis=1)) / (count - 2)
    return float((one * other.T).sum()) + totals - 2 * cross


def _ratio(both: float, one: float, other: float) -> float:
    return both / float(np.sqrt(one * other)) if one > 0 and other > 0 else 0.0


def rbf_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return CKA without bias of kernels `exp(-d^2 / (2 sigma^2))`; sigma is the median distance of each side.

    Args:
        first: features `[N, D]`.
        second: features `[N, E]` of the same images.

    Source: Kornblith et al., ICML 2019, section 3, with the unbiased HSIC of `debiased_cka`.
    """
    same_images(first, second)
    kernels = [_rbf(np.asarray(rows, dtype=np.float64)) for rows in (first, second)]
    return _ratio(unbiased_hsic(*kernels), *(unbiased_hsic(kernel, kernel) for kernel in kernels))


def _rbf(rows: Array) -> Array:
    centred = rows - rows.mean(axis=0)
    squares = np.einsum("nd,nd->n", centred, centred)
    apart = np.maximum(0.0, squares[:, None] + squares[None, :] - 2 * centred @ centred.T)
    median = float(np.median(np.sqrt(apart[np.triu_indices(len(rows), 1)])))
    # Of equal rows there is nothing to be alike: a kernel of zeros gives 0.
    return np.exp(-apart / (2 * median**2)) if median > 0 else np.zeros_like(apart)


def cknna(first: NDArray[np.floating], second: NDArray[np.floating], *, count: int = NEIGHBOURS) -> float:
    """Return CKA without bias that looks at pairs which are among the `count` nearest by cosine on both sides.

    Source: Huh et al., "The Platonic Representation Hypothesis", ICML 2024, appendix A, and the authors' code.
    """
    same_images(first, second)
    if not all(np.ptp(rows, axis=0).any() for rows in (first, second)):
        return 0.0
    kernels = [unit_rows(rows) @ unit_rows(rows).T for rows in (first, second)]
    near = [_nearest(kernel, min(count, len(kernel) - 1)) for kernel in kernels]
    both = near[0] & near[1]
    own = (unbiased_hsic(kernel * mask, kernel * mask) for kernel, mask in zip(kernels, near, strict=True))
    return _ratio(unbiased_hsic(kernels[0] * both, kernels[1] * both), *own)


def _nearest(kernel: Array, count: int) -> NDArray[np.bool_]:
    others = kernel.copy()
    np.fill_diagonal(others, -np.inf)
    # Ties go to the lower index.
    order = np.argsort(-others, axis=1, kind="stable")[:, :count]
    near = np.zeros(kernel.shape, dtype=np.bool_)
    np.put_along_axis(near, order, values=True, axis=1)
    return near


def rsa(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return Spearman's correlation of the cosine distances of all pairs of images; 0 where one side is constant.

    Source: Kriegeskorte, Mur and Bandettini, "Representational similarity analysis", 2008.
    """
    from scipy.stats import rankdata

    same_images(first, second)
    pairs = np.triu_indices(len(first), 1)
    ranks = [rankdata((unit_rows(rows) @ unit_rows(rows).T)[pairs]) for rows in (first, second)]
    one, other = (values - values.mean() for values in ranks)
    return _ratio(float(one @ other), float(one @ one), float(other @ other))


MEASURES: Mapping[str, Callable[[NDArray[np.floating], NDArray[np.floating]], float]] = {
    "rbf-cka": rbf_cka,
    "cknna": cknna,
    "procrustes": procrustes,
    "rsa": rsa,
}

"""How alike two views of the same images are: shared neighbours, CKA without bias, and linear predictability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.distances import nearest_rows
from hjepa_eval.errors import ProbeError

NEIGHBOURS = 10
Array = NDArray[np.float64]


def cosine_neighbours(features: NDArray[np.floating], *, count: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Return for each row of features `[N, D]` its nearest other rows by cosine, int64 `[N, count]`.

    Rows of length 0 stay where they are, at the origin.

    Raises:
        ProbeError: there are not so many other rows.
    """
    rows = np.asarray(features, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return nearest_rows(rows / np.where(norms > 0, norms, 1), count)[0]


def shared_neighbours(first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    """Return for each image the share of its neighbours in `first` that are in `second` too, float64 `[N]`.

    The mean over images is mutual-kNN; of two views that know nothing of each other it is `k / (N - 1)`.

    Args:
        first: neighbours' indices `[N, k]`, none twice.
        second: likewise, of the same images.

    Source: Huh et al., "The Platonic Representation Hypothesis", ICML 2024, appendix A.
    """
    same_images(first, second)
    together = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return np.asarray((together[:, 1:] == together[:, :-1]).sum(axis=1) / first.shape[1])


def same_images(first: NDArray, second: NDArray) -> None:
    """Check that two arrays have a row for each of the same images.

    Raises:
        ProbeError: they have not.
    """
    if len(first) != len(second):
        raise ProbeError(f"{len(first)} images against {len(second)}; compare levels of the same images")


def _centred(features: NDArray[np.floating]) -> Array:
    rows = np.asarray(features, dtype=np.float64)
    rows = rows - rows.mean(axis=0)
    scale = np.abs(rows).max()
    return np.asarray(rows / scale if scale > 0 else rows)


def _hsic(first: Array, second: Array) -> float:
    """Return HSIC_1 of linear kernels, times `N (N - 3)`, from features alone: no matrix of N x N is made."""
    count = len(first)
    lengths = [np.einsum("nd,nd->n", rows, rows) for rows in (first, second)]
    # Row sums of the kernels without their diagonals; the rows are centred, but not exactly.
    sums = [rows @ rows.sum(axis=0) - length for rows, length in zip((first, second), lengths, strict=True)]
    trace = float(((first.T @ second) ** 2).sum() - lengths[0] @ lengths[1])
    totals = float(sums[0].sum()) * float(sums[1].sum()) / ((count - 1) * (count - 2))
    return trace + totals - 2 * float(sums[0] @ sums[1]) / (count - 2)


def debiased_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return linear CKA with the unbiased estimate of HSIC: near 0 for independent features, 1 for the same map.

    It may lie a little below 0. Where one of the two is constant it is 0.

    Args:
        first: features `[N, D]`.
        second: features `[N, E]` of the same images.

    Raises:
        ProbeError: fewer than 4 images, or not the same number.

    Source: Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 5 (HSIC_1); Kornblith et
        al., ICML 2019, for CKA; Murphy et al. 2024 (arXiv:2405.01012) for the biased one's value on noise.
    """
    same_images(first, second)
    if len(first) < 4:
        raise ProbeError(f"CKA of {len(first)} images has no meaning; give at least 4, better 1,000")
    one, other = _centred(first), _centred(second)
    both = _hsic(one, one) * _hsic(other, other)
    return _hsic(one, other) / float(np.sqrt(both)) if both > 0 else 0.0


def cka_null(first: NDArray[np.floating], second: NDArray[np.floating], draws: Sequence[NDArray[np.int64]]) -> Array:
    """Return `debiased_cka` `[K]` under each permutation of the second's images; zeros where one is constant.

    Norms and sums do not depend on the order: a permutation costs one product `[D, N] x [N, E]`, in float32.

    Args:
        first: features `[N, D]`.
        second: features `[N, E]` of the same images.
        draws: permutations, int64 `[N]` each.
    """
    same_images(first, second)
    one, other = _centred(first), _centred(second)
    both = _hsic(one, one) * _hsic(other, other)
    if both <= 0:
        return np.zeros(len(draws))
    count = len(one)
    lengths = [np.einsum("nd,nd->n", rows, rows) for rows in (one, other)]
    sums = [rows @ rows.sum(axis=0) - length for rows, length in zip((one, other), lengths, strict=True)]
    totals = float(sums[0].sum()) * float(sums[1].sum()) / ((count - 1) * (count - 2))
    turned, rows = np.ascontiguousarray(one.T, dtype=np.float32), other.astype(np.float32)
    values = np.empty(len(draws))
    for number, order in enumerate(draws):
        product = turned @ rows[order]
        trace = float(np.einsum("de,de->", product, product, dtype=np.float64)) - float(lengths[0] @ lengths[1][order])
        values[number] = trace + totals - 2 * float(sums[0] @ sums[1][order]) / (count - 2)
    return np.asarray(values / np.sqrt(both))


def biased_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return linear CKA as first published: of noise it is large where images are few. For comparison only."""
    one, other = _centred(first), _centred(second)
    product = np.linalg.norm(one.T @ other) ** 2
    return float(product / (np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)))


def chance_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the mean of `biased_cka` over all orders of the second's rows, in closed form.

    E ||X^T Y_pi||_F^2 = ||X||_F^2 ||Y||_F^2 / (N - 1) for centred X and Y: for two different rows a permutation makes
    every pair of different rows equally likely, and the sums over all pairs are those of the centring.
    """
    one, other = _centred(first), _centred(second)
    energy = float((one**2).sum() * (other**2).sum()) / (len(one) - 1)
    return float(energy / (np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)))


def procrustes(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return orthogonal Procrustes similarity: the nuclear norm of `X^T Y` over both Frobenius norms, in [0, 1].

    Source: Schoenemann 1966; Ding, Denain and Steinhardt, NeurIPS 2021, for its use between representations.
    """
    same_images(first, second)
    one, other = _centred(first), _centred(second)
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(np.linalg.norm(one.T @ other, "nuc") / norms) if norms > 0 else 0.0

"""How many directions features fill: eigenvalues of their Gram matrix, and two effective ranks made from them."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the energy: what float64 leaves of features that are all the same vector, once their mean is taken away.
_NOTHING = 1e-20
# Relative to the largest eigenvalue: float64 cannot tell smaller ones from zero.
_ROUNDING = 1e-14


def gram_eigenvalues(features: Tensor, *, centred: bool = False) -> Tensor:
    """Return the eigenvalues, float64 `[min(N, D)]` and rising, of `X^T X` for features X `[N, D]`.

    None is negative; all are NaN if a feature is not finite.

    They are the squared singular values of X. A matrix of D x D is much cheaper to decompose than one of N x D, and
    float64 pays for what squaring loses: singular values are exact to about 1e-7 of the largest.

    Args:
        features: any float type, on any device; the work is done on the CPU.
        centred: whether the mean row is subtracted first. All eigenvalues are 0 if rounding is all that is left.
    """
    exact = features.detach().to("cpu", torch.float64)
    energy = exact.square().sum()
    if not energy.isfinite():
        return torch.full((min(exact.shape),), torch.nan, dtype=torch.float64)
    if centred:
        exact = exact - exact.mean(dim=0)
    gram = exact.T @ exact if len(exact) > exact.shape[1] else exact @ exact.T
    if gram.trace() <= _NOTHING * energy:
        return torch.zeros(len(gram), dtype=torch.float64)
    values = torch.linalg.eigvalsh(gram)
    return torch.where(values > _ROUNDING * values[-1], values, 0.0)


def rankme_of(eigenvalues: Tensor) -> float:
    """Return RankMe from the Gram matrix' eigenvalues: `exp(-sum_k p_k log p_k)`, `p_k = s_k / sum_j s_j`.

    `s_k` are the singular values, the roots of the eigenvalues. It is 1 for rank 1, D for D equal singular values, 0
    where there is nothing at all.

    Source: RankMe (Garrido et al. 2023, arXiv:2210.02885), equations 1 and 2; this is the effective rank of Roy and
        Vetterli (EUSIPCO 2007).
    Deviation: no 1e-7 is added to `p_k`, which would count directions that are not there; 0 log 0 is 0.
    """
    singular = eigenvalues.sqrt()
    if singular.sum() == 0:
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def participation_ratio_of(eigenvalues: Tensor) -> float:
    """Return the participation ratio `(sum_k v_k)^2 / sum_k v_k^2` of eigenvalues; 0 where there is nothing at all.

    It counts the directions that hold most of the variance, where RankMe also feels the many that hold little.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement".
    """
    squares = float(eigenvalues.square().sum())
    return float(eigenvalues.sum()) ** 2 / squares if squares != 0 else 0.0

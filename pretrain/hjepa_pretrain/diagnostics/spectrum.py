"""How many directions features fill, how they spread, and how much of them is one constant vector.

All are functions of tensors alone; the work is done in float64 where a mean is subtracted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def deviations(features: Tensor) -> Tensor:
    """Return the standard deviation over images of every dimension, float64 `[D]`, of features `[N, D]`.

    To be taken BEFORE a LayerNorm, which gives any features the same length and hides that they shrink.

    Source: the collapse measure of VICReg (Bardes et al. 2022, equation 1) and SimSiam (Chen and He 2021, section 4.1).
    """
    return features.double().std(dim=0)


def mean_energy(features: Tensor) -> float:
    """Return the share of the mean vector in the energy, `||mean_n x_n||^2 / mean_n ||x_n||^2`, of `[N, D]`, in [0, 1].

    0 means centred, 1 means that all images have one vector: it nears 1 long before deviations reach 0. 0 for zeros.
    """
    exact = features.double()
    energy = float(exact.square().sum(dim=1).mean())
    return float(exact.mean(dim=0).square().sum()) / energy if energy != 0 else 0.0


def token_variance(tokens: Tensor) -> Tensor:
    """Return the variance over an image's tokens, averaged over dimensions, float32 `[B]`, of tokens `[B, T, D]`."""
    return tokens.float().var(dim=1, correction=0).mean(dim=1)


def token_ratio(within: Tensor, means: Tensor) -> float | None:
    """Return the variance of tokens within an image over that of images, `mean_n within_n / mean_d var_n(means)`.

    Large when tokens tell places apart and not images, near 0 when all tokens of an image are the same vector.

    Args:
        within: `[N]`, of `token_variance`.
        means: `[N, D]`, the mean token of each image.

    Returns:
        None when images do not differ at all.
    """
    between = float(means.double().var(dim=0, correction=0).mean())
    return float(within.double().mean()) / between if between != 0 else None


def agreement(context: Tensor, target: Tensor) -> float:
    """Return the mean cosine between rows of context and target encoder features, both `[N, D]`."""
    return float(F.cosine_similarity(context.double(), target.double(), dim=1).mean())

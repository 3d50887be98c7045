"""How features spread over images and tokens, how much of them is one constant vector, and how well they are predicted.

All are functions of tensors alone; the work is done in float64 where a mean is subtracted.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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

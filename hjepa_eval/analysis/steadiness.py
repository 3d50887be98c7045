"""What a change of images does to features: how little it moves them, and whether they tell how much was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.factors import FactorFit, Standardised, ridge_factors
from hjepa_eval.analysis.sphere import unit_rows
from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, t_interval


@dataclass(frozen=True)
class Invariance:
    """How near an image stays to its changed self, beyond how near different images are.

    Attributes:
        value: mean cosine of an image and its changed self minus `between`; 1 - between is the most it can be.
        between: mean cosine of an image and the changed self of another one.
        share: `value` over `1 - between`: 1 where the change does nothing, 0 where it makes another image of it.
    """

    value: Interval
    between: float
    share: float


def invariance(clean: NDArray[np.floating], changed: NDArray[np.floating]) -> Invariance:
    """Return how little a change moves features, both `[N, D]` and of the same images in the same order.

    The mean cosine between different images is taken off: else a collapsed level would be called robust.

    Raises:
        ProbeError: unlike shapes, or fewer than two images.
    """
    if clean.shape != changed.shape or len(clean) < 2:
        raise ProbeError(f"invariance compares the same images, at least 2: found {clean.shape} and {changed.shape}")
    before, after = unit_rows(clean), unit_rows(changed)
    own = np.einsum("nd,nd->n", before, after)
    count = len(own)
    # The sum over all pairs is the product of the sums; the pairs of one image are taken out.
    between = float((before.sum(axis=0) @ after.sum(axis=0) - own.sum()) / (count * (count - 1)))
    room = 1 - between
    return Invariance(t_interval(own - between), between, float(own.mean() - between) / room if room > 0 else 0.0)


def equivariance(
    clean: NDArray[np.floating], changed: NDArray[np.floating], parameters: NDArray[np.float64], *, seed: int = 0
) -> FactorFit:
    """Return the held-out R2 of a movement's parameters `[N, P]` from features before and after it, `[N, D]` each.

    A ridge regression on both features joined is fitted on a random half of the images and scored on the rest.

    Raises:
        ProbeError: unlike numbers of rows, or too few.

    Source: the protocol of SIE (Garrido et al., ICML 2023) and seq-JEPA (2025), with a linear regressor.
    """
    if not len(clean) == len(changed) == len(parameters):
        raise ProbeError(f"rows differ: {len(clean)} clean, {len(changed)} changed, {len(parameters)} parameters")
    joined = np.concatenate([clean, changed], axis=1)
    order = np.random.default_rng(seed).permutation(len(joined))
    fitted, held = np.split(order, [len(order) // 2])
    split = Standardised(joined[fitted], joined[held])
    return ridge_factors(split, {"movement": parameters[fitted]}, {"movement": parameters[held]}, seed=seed)["movement"]


def mean_corruption_error(errors: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over corruptions of summed errors over severities, each relative to a reference model's.

    Args:
        errors: corruption -> error rate at each severity.
        reference: the same of the reference model; above 0.

    Raises:
        ProbeError: the two lack the same corruptions or severities, or the reference makes no error.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.
    Deviation: the reference is k-means of patches instead of AlexNet; frost is left out.
    """
    if {name: len(rates) for name, rates in errors.items()} != {name: len(rates) for name, rates in reference.items()}:
        raise ProbeError("a corruption error compares the same corruptions and severities of both models")
    if not all(sum(rates) > 0 for rates in reference.values()):
        raise ProbeError("the reference makes no error on some corruption; take a weaker one")
    return float(np.mean([sum(rates) / sum(reference[name]) for name, rates in errors.items()]))

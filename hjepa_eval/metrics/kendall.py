"""Kendall's tau within groups, such as the levels of each model, and what choosing by a number would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.metrics.intervals import Interval

LEAST = 3
RESAMPLES = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """How well one number orders another.

    Attributes:
        tau: with the bootstrap interval over groups and their items; `num_samples` is the number of items.
        lost: mean over groups of the best outcome less that of the item chosen by the number.
        by_chance: the same of an item drawn blindly.
        groups: how many.
    """

    tau: Interval
    lost: float
    by_chance: float
    groups: int


def rank_agreement(groups: Sequence[tuple[Array, Array]], *, seed: int = 0) -> Ranked | None:
    """Return how well predictors order outcomes within groups; None where no pair of items differs in both.

    Pairs are those within a group; over all groups `tau = sum s_x s_y / sqrt(sum s_x^2 sum s_y^2)` with the signs s of
    the differences of each pair, which of a single group is tau-b.

    Args:
        groups: predictors `[M]`, the larger the better, and outcomes `[M]`, of items of each group; groups of fewer
            than 3 items are left out.
        seed: of the bootstrap, which draws groups and then items of each.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945.
    """
    kept = [(x, y) for x, y in groups if len(x) >= LEAST]
    if not kept:
        return None
    signs = [tuple(np.sign(values[:, None] - values[None, :]) for values in group) for group in kept]
    sums = np.array([_sums(pair, np.ones((1, len(pair[0]))))[0] for pair in signs])
    value = _tau(sums.sum(axis=0, keepdims=True))[0]
    if np.isnan(value):
        return None
    generator = np.random.default_rng(seed)
    drawn = np.zeros((RESAMPLES, 3))
    times = generator.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=RESAMPLES)
    for pair, weight in zip(signs, times.T, strict=True):
        count = len(pair[0])
        drawn += weight[:, None] * _sums(pair, generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES))
    draws = _tau(drawn)
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975])
    tau = Interval(
        float(value), float(min(low, value)), float(max(high, value)), sum(len(x) for x, _ in kept), "bootstrap 95%"
    )
    lost = np.mean([y.max() - y[x == x.max()].mean() for x, y in kept])
    return Ranked(tau, float(lost), float(np.mean([y.max() - y.mean() for _, y in kept])), len(kept))


def _sums(signs: tuple[Array, ...], weights: NDArray[np.generic]) -> Array:
    """Return `sum s_x s_y`, `sum s_x^2`, `sum s_y^2` over pairs under each of weights `[R, M]`, float64 `[R, 3]`."""
    first, second = signs
    w = weights.astype(np.float64)
    products = (first * second, first * first, second * second)
    return np.stack([np.einsum("rm,mn,rn->r", w, product, w, optimize=True) / 2 for product in products], axis=1)


def _tau(sums: Array) -> Array:
    scale = np.sqrt(sums[:, 1] * sums[:, 2])
    return np.where(scale > 0, sums[:, 0] / np.where(scale > 0, scale, 1), np.nan)

"""What each image adds to the accuracy of few-shot episodes, so that intervals and tests cover the draw of the images.

Ten thousand episodes of a hundred images are not ten thousand observations: other images would move all of them. The
mean accuracy A of the episodes is an (incomplete) U-statistic of the images, and to first order (Hoeffding, Hajek)

    A - its expectation  =  sum over classes c, mean over the n images i of c, of  p psi_i,      p = W / C
    psi_i                =  a_i / W + S b_i

with a_i how much more often i is classified right, as a query, than its class's mean, and b_i how much higher than the
mean an episode is that has i among its S labelled images. So the variance of A over images is the sum over classes of
p^2 / n Var(psi), support and queries both drawn anew, the classes fixed; the episodes add their own variance / E.

What is seen of i, q_i as a query, and g_i (accuracy of its class) and s_i (of the episode) as support, all less their
means, comes from a pool without i's place filled by others: q = a - S g' / (n - 1), g = g' k - a / (n - 1) and
s = b k - a / (W (n - 1)), k = (n - S) / (n - 1), with g' what g would be in a large pool. Solved, psi_i is a sum of
q_i, g_i and s_i with the weights of `_weights`. Squares of noisy means are too large, so Var(psi) is estimated from
products of two DIFFERENT episodes that share an image, whose errors are independent.

Source: Hoeffding, "A class of statistics with asymptotically normal distribution", 1948, section 7; the estimate is the
    infinitesimal jackknife of Efron, "Estimation and accuracy after model selection", JASA 2014, without the bias that
    Wager, Hastie and Efron (arXiv:1311.4555) remove from it for few episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.probes.few_labels.episodes import Episodes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageValues:
    """What the images say about a mean of episodes.

    Attributes:
        values: float64 [N]: their mean is that of the episodes and their standard error its own, so that those of two
            levels or models can be compared in pairs; they may lie outside [0, 1].
        variance: of the mean, over draws of the images and of the episodes.
    """

    values: Array
    variance: float


def image_values(right: NDArray[np.bool_], episodes: Episodes) -> ImageValues:
    """Return what each image adds to the mean of `right` [E, W, Q].

    Args:
        right: whether each query of `episodes` was classified right.
        episodes: E of them.
    """
    counts = episodes.counts
    ways, shots = episodes.support.shape[1:]
    classes, total = episodes.classes, int(counts.sum())
    weights = _weights(counts, ways, shots)
    accuracy = right.mean(axis=2)
    whole = accuracy.mean(axis=1)
    own, own_mean = _centred(accuracy, classes, len(counts))
    support = weights[1][classes] * own
    support += weights[2][classes] * _centred(np.broadcast_to(whole[:, None], classes.shape), classes, len(counts))[0]
    asked = weights[0][classes][:, :, None] * (right - own_mean[classes][:, :, None])

    as_query = _Role.of(episodes.queries, asked, total)
    as_support = _Role.of(episodes.support, np.broadcast_to(support[:, :, None], episodes.support.shape), total)
    labels = np.zeros(total, np.int64)
    labels[episodes.queries] = labels[episodes.support] = classes[:, :, None]
    seen = np.bincount(classes.ravel(), minlength=len(counts))

    def variance(pairs: Array, products: Array, of_means: Array) -> float:
        """Return the mean of `products` of episodes that share an image; centring took their classes' error away."""
        lost = np.bincount(classes.ravel(), of_means.ravel(), len(counts)) / np.maximum(seen * (seen - 1), 1)
        return float((products.sum() + (pairs * lost[labels]).sum()) / max(pairs.sum(), 1))

    means = weights[0][classes] * own
    of_queries = variance(as_query.pairs, as_query.products, means**2)
    of_support = variance(as_support.pairs, as_support.products, support**2)
    both = variance(as_query.count * as_support.count, as_query.sum * as_support.sum, means * support)
    share = ways / np.count_nonzero(counts)
    per_image = max(0.0, of_queries + 2 * both + of_support) * float((share**2 / counts[counts > 0]).sum())
    spent = float(whole.var(ddof=1)) / len(whole) if len(whole) > 1 else 0.0

    psi = as_query.means(of_queries) + as_support.means(of_support)
    # Of images that no episode drew nothing is known, not even the class: they add nothing.
    drawn = as_query.count + as_support.count > 0
    size = np.bincount(labels[drawn], minlength=len(counts))
    psi = np.where(drawn, psi - (np.bincount(labels, psi, len(counts)) / np.maximum(size, 1))[labels], 0.0)
    psi *= share * total / counts[labels]
    error = float(psi.std(ddof=1)) / math.sqrt(total)
    scale = math.sqrt(per_image + spent) / error if error > 0 else 0.0
    return ImageValues(float(whole.mean()) + scale * psi, per_image + spent)


def _weights(counts: NDArray[np.int64], ways: int, shots: int) -> Array:
    """Return float64 [3, C], what psi is made of: as a query, as support for the own class, as support for all."""
    n = np.maximum(counts, shots + 2).astype(np.float64)
    kept = (n - shots) / (n - 1)
    mixed = kept - shots / (n - 1) ** 2
    mixed = np.where(mixed > 0.5 * kept, mixed, kept)  # so few images that a query's support is all the others
    outer = n / (ways * (n - shots))
    query = outer * (1 + shots / ((n - 1) ** 2 * mixed))
    # The pool's own class means are nearer to its images than the true ones.
    return np.stack([query, outer * shots / ((n - 1) * mixed), shots / kept]) * np.sqrt(n / (n - 1))


def _centred(values: Array, classes: NDArray[np.int64], num_classes: int) -> tuple[Array, Array]:
    """Return `values` [E, W] less their class's mean, and those means [C]."""
    seen = np.bincount(classes.ravel(), minlength=num_classes)
    means = np.bincount(classes.ravel(), values.ravel(), num_classes) / np.maximum(seen, 1)
    return values - means[classes], means


@dataclass(frozen=True)
class _Role:
    """Sums over the episodes in which each of N images has one role, and over their squares."""

    count: Array
    sum: Array
    squares: Array

    @classmethod
    def of(cls, images: NDArray[np.int64], values: Array, total: int) -> _Role:
        """Return the sums of `values` over the `images` beside them, of `total` images."""
        index, flat = images.ravel(), np.ascontiguousarray(values).ravel()
        count = np.bincount(index, minlength=total).astype(np.float64)
        sums = (np.bincount(index, weights, total).astype(np.float64) for weights in (flat, flat**2))
        return cls(count, *sums)

    @property
    def pairs(self) -> Array:
        """How many pairs of different episodes share each image."""
        return self.count * (self.count - 1)

    @property
    def products(self) -> Array:
        """Sums of their products."""
        return self.sum**2 - self.squares

    def means(self, variance: float) -> Array:
        """Return each image's mean, drawn to 0 by as much as it is noise (Efron and Morris, JASA 1973)."""
        if variance <= 0:
            return np.zeros_like(self.sum)
        noise = max(0.0, float(self.squares.sum() / max(self.count.sum(), 1)) - variance)
        return self.sum / (self.count + noise / variance)

"""Neighbours as products use them: retrieval, images of other kinds, and how bad mistakes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, bootstrap_interval


@dataclass(frozen=True)
class Retrieval:
    """What ranked lists of train images hold of each query's class.

    Attributes:
        recall: k -> share of queries with an image of their class among the first k.
        average_precision: mean over queries of the average precision within the list.
        depth: length of the lists.
        outcomes: float64 `[Q]`, average precision of each query.
    """

    recall: dict[int, Interval]
    average_precision: Interval
    depth: int
    outcomes: NDArray[np.float64]


def retrieval(
    neighbours: NDArray[np.int64],
    labels: NDArray[np.int64],
    queries: NDArray[np.int64],
    *,
    ks: tuple[int, ...] = (1, 5, 10),
) -> Retrieval:
    """Return how well the ranked lists find images of the query's class.

    Args:
        neighbours: int64 `[Q, K]`, train images of each query, nearest first, ties by index.
        labels: of train images, int64 `[N]`.
        queries: labels of the queries, int64 `[Q]`.
        ks: lengths at which recall is told, at most K.

    Raises:
        ProbeError: a list shorter than the largest k.

    Source: Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020, for MAP@R, which this is where
        lists are as long as classes are large: the sum of precisions at hits over min(K, images of the class).
    """
    if max(ks) > neighbours.shape[1]:
        raise ProbeError(f"recall at {max(ks)} needs as many neighbours, found lists of {neighbours.shape[1]}")
    right = labels[neighbours] == queries[:, None]
    ranks = np.arange(1, right.shape[1] + 1)
    precision = np.cumsum(right, axis=1) / ranks
    relevant = np.bincount(labels, minlength=int(max(labels.max(), queries.max())) + 1)[queries]
    possible = np.maximum(1, np.minimum(right.shape[1], relevant))
    average = np.asarray((precision * right).sum(axis=1) / possible)
    return Retrieval(
        recall={k: bootstrap_interval(right[:, :k].any(axis=1).astype(np.float64)) for k in ks},
        average_precision=bootstrap_interval(average),
        depth=right.shape[1],
        outcomes=average,
    )


@dataclass(frozen=True)
class Detection:
    """How well distances tell known images from others.

    Attributes:
        auroc: chance that an image of the other kind lies farther than a known one, ties a half; .5 is chance.
        fpr95: share of the other images that pass as known where 95 % of the known do; .95 is chance.
    """

    auroc: float
    fpr95: float


def detect(known: NDArray[np.floating], other: NDArray[np.floating]) -> Detection:
    """Return how well scores `[N]` of known images and `[M]` of others, larger for stranger ones, tell them apart.

    Raises:
        ProbeError: one of them is empty, or a score is NaN.

    Source: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022: scores are
        distances to the k-th neighbour of unit features, k = 50. AUROC is the Mann-Whitney statistic.
    """
    if not len(known) or not len(other) or np.isnan(known).any() or np.isnan(other).any():
        raise ProbeError("detection needs scores of known and of other images, none of them NaN")
    ordered = np.sort(np.asarray(known, dtype=np.float64))
    scores = np.asarray(other, dtype=np.float64)
    below, up_to = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    # 95 % of the known images score at most this.
    threshold = ordered[int(np.ceil(0.95 * len(ordered))) - 1]
    return Detection(
        auroc=float((below + up_to).mean() / (2 * len(ordered))),
        fpr95=float((scores <= threshold).mean()),
    )


@dataclass(frozen=True)
class Severity:
    """How far wrong answers are from right ones in a hierarchy of classes.

    Attributes:
        within: share of the mistakes that stay within the superclass.
        random: that share for wrong answers drawn evenly among the other classes.
        mistakes: how many there were.
    """

    within: float
    random: float
    mistakes: int


def mistake_severity(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], superclass: NDArray[np.int64]
) -> Severity | None:
    """Return how often mistakes stay within the superclass; None where there are none.

    Args:
        predictions: int64 `[N]`.
        labels: int64 `[N]`.
        superclass: of each class, int64 `[C]`.

    Source: Bertinetto et al., "Making Better Mistakes", CVPR 2020, with a hierarchy of two layers. Read it beside
        accuracy: better models make fewer, harder mistakes.
    """
    wrong = predictions != labels
    if not wrong.any():
        return None
    sizes = np.bincount(superclass)
    chance = (sizes[superclass[labels[wrong]]] - 1) / max(1, len(superclass) - 1)
    same = superclass[predictions[wrong]] == superclass[labels[wrong]]
    return Severity(float(same.mean()), float(chance.mean()), int(wrong.sum()))


def worst_group(correct: NDArray[np.bool_], groups: NDArray[np.int64]) -> tuple[int, float, int]:
    """Return the group with the lowest accuracy, that accuracy, and its images; ties go to the lower group.

    Source: Sagawa et al., "Distributionally Robust Neural Networks", ICLR 2020, for the measure.
    """
    counts = np.bincount(groups)
    rights = np.bincount(groups, weights=correct)
    accuracy = np.where(counts > 0, rights / np.maximum(counts, 1), np.inf)
    worst = int(accuracy.argmin())
    return worst, float(accuracy[worst]), int(counts[worst])

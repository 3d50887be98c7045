"""Accuracies from predictions: top-1, top-k, per class, and over superclasses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval, wilson


def accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> Interval:
    """Return the share of `predictions` [N] that equal `labels` [N], with its Wilson interval.

    Raises:
        ProbeError: the two differ in length, or are empty.
    """
    _same_length(predictions, labels)
    return wilson(int((predictions == labels).sum()), labels.size)


def topk_hits(scores: NDArray[np.floating], labels: NDArray[np.int64], *, k: int) -> NDArray[np.bool_]:
    """Return for each row of `scores` [N, C] whether its label is among the `k` largest scores, as bool [N].

    Of equal scores the lower class comes first, as in a stable sort.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    # Counting the classes ahead of the label costs one pass; sorting all classes would cost several.
    lower = np.arange(scores.shape[1])[None, :] < labels[:, None]
    ahead = (scores > own).sum(axis=1) + ((scores == own) & lower).sum(axis=1)
    return np.asarray(ahead < k)


def topk_accuracy(scores: NDArray[np.floating], labels: NDArray[np.int64], *, k: int = 5) -> Interval:
    """Return the share of rows of `scores` [N, C] whose label is among the `k` largest scores.

    With `k >= C` this is 1.

    Raises:
        ProbeError: `scores` and `labels` differ in length, or are empty.
    """
    _same_length(scores, labels)
    return wilson(int(topk_hits(scores, labels, k=k).sum()), labels.size)


def per_class_accuracy(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], *, num_classes: int
) -> dict[int, Interval]:
    """Return the accuracy over the samples of each class; classes without a sample are left out.

    Raises:
        ProbeError: the two differ in length, or are empty.
    """
    _same_length(predictions, labels)
    total = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[predictions == labels], minlength=num_classes)
    return {int(c): wilson(int(correct[c]), int(total[c])) for c in np.flatnonzero(total)}


def balanced_accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64], *, num_classes: int) -> float:
    """Return the mean of the per-class accuracies over the classes that occur in `labels`.

    Raises:
        ProbeError: the two differ in length, or are empty.
    """
    each = per_class_accuracy(predictions, labels, num_classes=num_classes)
    return float(np.mean([interval.value for interval in each.values()]))


def superclass_accuracy(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], *, superclass: NDArray[np.int64]
) -> Interval:
    """Return the accuracy when a prediction counts as right if its superclass is; `superclass` [C] maps class to it.

    Raises:
        ProbeError: a class has no superclass, or the lengths differ.
    """
    _same_length(predictions, labels)
    largest = max(int(predictions.max()), int(labels.max()))
    if largest >= superclass.size:
        raise ProbeError(f"class {largest} has no superclass; the map covers classes 0 to {superclass.size - 1}")
    return accuracy(superclass[predictions], superclass[labels])


def _same_length(predictions: NDArray, labels: NDArray[np.int64]) -> None:
    if len(predictions) != len(labels):
        raise ProbeError(f"{len(predictions)} predictions do not belong to {len(labels)} labels")
    if len(labels) == 0:
        raise ProbeError("an accuracy of 0 samples is undefined; give at least one test sample")

"""What a probe does to single classes: which it takes for which, and which classes a level gains or loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.paired import Outcomes


@dataclass(frozen=True)
class ClassDifferences:
    """Two levels compared class by class on the same samples; classes without samples are left out.

    Attributes:
        names: of the classes, in the order of their numbers.
        samples: int64 [C], of each class.
        first: float64 [C], the accuracy of the first level in [0, 1].
        second: float64 [C], of the second.
        difference: float64 [C], first minus second.
        low: float64 [C], lower end of the difference's interval in [-1, 1].
        high: float64 [C], upper end.
        interval: how it was made, such as `bonett-price 95%`.
    """

    names: tuple[str, ...]
    samples: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    interval: str


def confusion_counts(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Return int64 [C, C]: how many samples of the true class (row) were taken for each class (column).

    Args:
        labels: [N], in [0, C).
        predictions: [N], in [0, C).
        num_classes: C.

    Raises:
        ProbeError: the lengths differ, or a class is outside [0, C).
    """
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ProbeError(f"found {labels.size} labels and {predictions.size} predictions; give one of each per sample")
    _check_classes(labels, num_classes, "labels")
    _check_classes(predictions, num_classes, "predictions")
    places = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def most_confused(counts: NDArray[np.integer], most: int) -> list[tuple[int, int]]:
    """Return at most so many pairs (true class, taken for), the most frequent errors first, ties in class order.

    Args:
        counts: [C, C], as `confusion_counts` returns them.
        most: pairs; those that never happened are left out.
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[: max(0, most)]
    pairs = [divmod(int(place), len(counts)) for place in order]
    return [(true, taken) for true, taken in pairs if wrong[true, taken] > 0]


def per_class_differences(
    labels: NDArray[np.integer],
    first: Outcomes,
    second: Outcomes,
    names: Sequence[str],
    *,
    confidence: float = 0.95,
) -> ClassDifferences:
    """Return the difference of two levels' accuracies per class, each with an interval for paired proportions.

    Of the n samples of a class let b be those that the first level alone gets right and c those that the second alone
    does. The difference is (b - c) / n. With p = (b + 1) / (n + 2) and q = (c + 1) / (n + 2) its interval is
    p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)), cut to [-1, 1]: it keeps a width where the levels agree on every
    sample. Each interval is one class's own; of 20 classes one is expected to miss.

    That is the mean of the n differences, and of two more that are 1 and -1, -+ z standard errors: p - q is the mean of
    all n + 2, p + q the mean of their squares. In this form it takes shares of several seeds too.

    Args:
        labels: [N], in [0, C).
        first: bool [N], whether the first level classified each sample right, or float [N], the share of seeds in
            [0, 1] that did.
        second: the same of the second level, for the same samples in the same order.
        names: C names of the classes.
        confidence: of each interval.

    Raises:
        ProbeError: the lengths differ, a label has no name, or the confidence is not between 0 and 1.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data", Journal of Educational and Behavioral Statistics 37(4), 2012.
    Deviation: shares of seeds, which are the paper's right and wrong for one seed only. The interval covers the draw of
        test samples; how far other seeds would fall it does not.
    """
    if not labels.shape == first.shape == second.shape or labels.ndim != 1:
        sizes = f"{labels.size}, {first.size} and {second.size}"
        raise ProbeError(f"classes are compared on the same samples in the same order, found {sizes} of them")
    if not 0.0 < confidence < 1.0:
        raise ProbeError(f"confidence {confidence} is not between 0 and 1; use 0.95 for a 95 % interval")
    _check_classes(labels, len(names), "labels")

    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    samples = np.bincount(labels, minlength=len(names)).astype(np.int64)
    present = np.flatnonzero(samples)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(labels, weights=values, minlength=len(names)).astype(np.float64)[present]

    n, right, right_other = samples[present], total(one), total(other)
    middle = (right - right_other) / (n + 2)
    squares = (total((one - other) ** 2) + 2) / (n + 2)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * np.sqrt((squares - middle**2) / (n + 2))
    return ClassDifferences(
        names=tuple(names[place] for place in present.tolist()),
        samples=n,
        first=right / n,
        second=right_other / n,
        difference=(right - right_other) / n,
        low=np.maximum(-1.0, middle - half),
        high=np.minimum(1.0, middle + half),
        interval=f"bonett-price {100 * confidence:g}%",
    )


def _check_classes(classes: NDArray[np.integer], num_classes: int, what: str) -> None:
    if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ProbeError(
            f"{what} lie between {classes.min()} and {classes.max()}, but there are {num_classes} classes, from 0 on; "
            "probe again with --predictions"
        )

"""Where hyper-parameters are chosen, so that test is touched once: a held-out part of train, or folds of it.

Folds where labels are too few: on 5 labelled digits per class a tenth is one image of each, and a C chosen by those
scored 80.3 % over ten draws; five folds chose one of 85.4 %, and the best of the grid was 86.4 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.linear.logistic_path import fit_logistic
from hjepa_eval.probes.samples import Samples

# DINO's choice for features of unit norm (`low_shot_protocols.py` derives it).
USUAL_C = 10.0
_FOLDS = 5
# So many held-out predictions tell the values of C apart; further folds would only cost time.
_ENOUGH = 1000
# Which samples are right is settled long before the weights are, and for a large C much sooner.
_TOLERANCE = 1e-5


def distance_from_usual(c: float) -> float:
    """Return how many factors of e lie between `c` and 10, the C to take when nothing speaks for another."""
    return abs(math.log(c / USUAL_C))


def by_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all positions [N], class after class, shuffled within each."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    return np.asarray(shuffled[np.argsort(labels[shuffled], kind="stable")])


def stratified_folds(labels: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold [N] of each sample; the folds' samples of a class differ in number by one at most."""
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    fold = np.empty(len(labels), dtype=np.int64)
    fold[by_class(labels, seed)] = (np.arange(len(labels)) - first) % folds
    return fold


def cross_validated_c(samples: Samples, *, num_classes: int, grid: Sequence[float], seed: int) -> float:
    """Return the C of `grid` that classifies most samples of left-out folds; of equal ones that nearest to 10.

    There are five stratified folds, or as many as the smallest class has samples (two at least), and no more of them
    are left out once 1,000 samples have been predicted.

    Args:
        samples: features [N, D]; every class that occurs has two samples or more.
        num_classes: C; labels lie in [0, C).
        grid: values of C, all above 0.
        seed: of the folds.
    """
    counts = np.bincount(samples.labels)
    folds = min(_FOLDS, int(counts[counts > 0].min()))
    fold = stratified_folds(samples.labels, folds=folds, seed=seed)
    right, tried = np.zeros(len(grid)), 0
    for left_out in range(folds):
        kept, held = samples.take(np.flatnonzero(fold != left_out)), samples.take(np.flatnonzero(fold == left_out))
        path = fit_logistic(kept.features, kept.labels, num_classes=num_classes, cs=grid, tol=_TOLERANCE)
        right += [(path.scores(held.features, i).argmax(axis=1) == held.labels).sum() for i in range(len(grid))]
        tried += len(held)
        if tried >= _ENOUGH:
            break
    return max(zip(right, grid, strict=True), key=lambda pair: (pair[0], -distance_from_usual(pair[1])))[1]


def stratified_holdout(
    labels: NDArray[np.int64], *, fraction: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted indices (kept, held out) of a random part of every class.

    Of a class with n samples, round(fraction * n) are held out, at least one if n >= 2, and never all.

    Args:
        labels: int64 [N].
        fraction: share held out, in (0, 1).
        seed: of numpy's PCG64.

    Raises:
        ProbeError: the fraction is outside (0, 1), or every class has a single sample.
    """
    if not 0 < fraction < 1:
        raise ProbeError(f"the held-out fraction must lie between 0 and 1, found {fraction}; the usual one is 0.1")
    order = np.random.default_rng(seed).permutation(len(labels))
    held = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:size])
    out = np.sort(np.concatenate(held))
    if out.size == 0:
        raise ProbeError(
            "every class has a single train sample, so none can be held out to choose by; for logreg give one C"
        )
    return np.setdiff1d(np.arange(len(labels)), out), out

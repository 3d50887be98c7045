"""Low-shot classification: a probe that sees few labels, on several draws of them, tested on the whole test set."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, unknown
from hjepa_eval.metrics.intervals import Interval, Spread, spread
from hjepa_eval.probes.holdout import by_class, cross_validated_c, distance_from_usual
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import DEFAULT_CS, logistic_regression
from hjepa_eval.probes.linear.ridge import DEFAULT_PENALTIES, ridge_regression
from hjepa_eval.probes.linear.scaling import Scaling, scaled
from hjepa_eval.probes.samples import Samples, check_labels, check_samples, class_label

Classifier = Literal["knn", "logreg", "ridge"]

PARAMETERS: Mapping[str, str] = MappingProxyType({"knn": "k", "logreg": "C", "ridge": "penalty"})
DEFAULT_GRIDS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"knn": (20,), "logreg": DEFAULT_CS, "ridge": DEFAULT_PENALTIES}
)


@dataclass(frozen=True)
class LowShotResult:
    """Accuracy over draws of few labels.

    Attributes:
        score: mean over draws, its interval and all values; every value is an accuracy on the whole test set.
        scores: accuracy of each draw with its Wilson interval.
        predictions: int64 [N_test] for each draw.
        sizes: train images of each draw.
        parameter: what was chosen: `k`, `C` or `penalty`.
        chosen: its value for each draw.
        seconds: wall-clock time.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Spread
    scores: tuple[Interval, ...]
    predictions: tuple[NDArray[np.int64], ...]
    sizes: tuple[int, ...]
    parameter: str
    chosen: tuple[float, ...]
    seconds: float
    notes: tuple[str, ...]


def draw_subset(
    labels: NDArray[np.int64],
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    num_classes: int,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Return the sorted indices [M] of a random part of every class.

    It depends on the labels, the size and the seed only, so every level and model sees the same images. With one seed a
    smaller subset is a part of a larger one.

    Args:
        labels: int64 [N], in [0, num_classes).
        fraction: share of each class, round(fraction * n) of its n samples and at least one; or
        per_class: samples of every class, exactly.
        num_classes: C.
        seed: of numpy's PCG64.
        class_names: names for messages.

    Raises:
        ProbeError: none or both of the sizes, a size out of range, or a class with fewer samples than asked for.
    """
    if (fraction is None) == (per_class is None):
        raise ProbeError("a low-shot subset has one size: give either a fraction or a number per class")
    labels = check_labels(labels, "train", num_samples=len(labels), num_classes=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ProbeError(f"a fraction of the labels lies above 0 and up to 1, found {fraction}; 1 % is 0.01")
        sizes = [min(int(count), max(1, round(fraction * int(count)))) for count in counts]
    else:
        assert per_class is not None
        least = int(counts.argmin())
        if not 1 <= per_class <= counts[least]:
            raise ProbeError(
                f"{per_class} train samples per class cannot be drawn: {class_label(least, class_names)} has "
                f"{counts[least]}; use 1 to {counts[least]}"
                if counts[least]
                else f"{class_label(least, class_names)} has no train sample to draw; use a fraction instead"
            )
        sizes = [per_class] * num_classes
    members = np.split(by_class(labels, seed), np.cumsum(counts)[:-1])
    return np.sort(np.concatenate([each[:size] for each, size in zip(members, sizes, strict=True)]))


def low_shot(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    subsets: Sequence[NDArray[np.int64]],
    classifier: Classifier = "logreg",
    scaling: Scaling = "l2",
    grid: Sequence[float] | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> LowShotResult:
    """Fit `classifier` on each subset of `train` alone and report its accuracy on all of `test`.

    The grid's value is chosen inside the subset: k and the ridge penalty by leave-one-out, C by cross-validation
    (`cross_validated_c`). Where a class has a single sample none can be held out, and C is the value of the grid
    nearest to 10.

    Args:
        train: features [N, D] that the subsets index.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        subsets: int64 indices into train, one array per draw; see `draw_subset`.
        classifier: weighted kNN (cosine, T = 0.07), logistic regression or ridge regression.
        scaling: of the features; see `scaled`.
        grid: values of k, C or penalty to choose from; one value is used without a choice. Default: k = 20, the grids
            of `linear.py` and `ridge.py`. A k beyond the subset is clipped to its size.
        seed: of the folds that choose C.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, no subset, indices that are no distinct rows of train,
            a subset of a single class, or a grid with values that are not above 0 (for kNN, whole).
        UnknownNameError: an unknown classifier or scaling.

    Source: `low_shot_protocols.py` names the published settings.
    """
    started = time.perf_counter()
    if classifier not in get_args(Classifier):
        raise unknown("low-shot classifier", classifier, get_args(Classifier))
    values = _checked_grid(DEFAULT_GRIDS[classifier] if grid is None else grid, classifier)
    train, test, _ = check_samples(train, test, num_classes=num_classes, class_names=class_names)
    _check_subsets(subsets, len(train))
    draws = []
    for subset in subsets:
        bank, queries, notes = scaled(train.take(subset), test, scaling)
        single = int((np.bincount(bank.labels, minlength=num_classes) == 1).sum())
        draw = _SOLVERS[classifier](_Task(bank, queries, num_classes, values, single, seed, class_names))
        draws.append((*draw[:3], (*notes, *draw[3])))
    scores, predictions, chosen, notes_of = zip(*draws, strict=True)
    return LowShotResult(
        score=spread(scores),
        scores=scores,
        predictions=predictions,
        sizes=tuple(len(subset) for subset in subsets),
        parameter=PARAMETERS[classifier],
        chosen=chosen,
        seconds=time.perf_counter() - started,
        notes=_merged(notes_of),
    )


@dataclass(frozen=True)
class _Task:
    """One draw: `single` counts the classes of the bank that have one sample."""

    bank: Samples
    test: Samples
    num_classes: int
    grid: tuple[float, ...]
    single: int
    seed: int
    class_names: Sequence[str] | None


_Draw = tuple[Interval, NDArray[np.int64], float, tuple[str, ...]]


def _knn(task: _Task) -> _Draw:
    ks, notes = [int(k) for k in task.grid], _left_out_note(task)
    if len(ks) > 1:
        ks = [knn(task.bank, num_classes=task.num_classes, ks=ks, leave_one_out=True).best_k]
    found = knn(task.bank, task.test, num_classes=task.num_classes, ks=ks, class_names=task.class_names)
    (k,) = found.scores
    return found.scores[k], found.predictions[k], k, (*notes, *found.notes)


def _logreg(task: _Task) -> _Draw:
    c = min(task.grid, key=distance_from_usual)
    notes: tuple[str, ...] = ()
    if len(task.grid) > 1 and task.single:
        notes = (f"C = {c:g} was not chosen: {_classes(task.single)} a single sample, and none can be held out",)
    elif len(task.grid) > 1:
        c = cross_validated_c(task.bank, num_classes=task.num_classes, grid=task.grid, seed=task.seed)
    found = logistic_regression(
        task.bank, task.test, num_classes=task.num_classes, cs=[c], class_names=task.class_names
    )
    return found.score, found.predictions, c, (*notes, *found.notes)


def _ridge(task: _Task) -> _Draw:
    found = ridge_regression(
        task.bank, task.test, num_classes=task.num_classes, penalties=task.grid, class_names=task.class_names
    )
    return found.score, found.predictions, found.penalty, (*_left_out_note(task), *found.notes)


_SOLVERS: Mapping[str, Callable[[_Task], _Draw]] = MappingProxyType({"knn": _knn, "logreg": _logreg, "ridge": _ridge})


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _left_out_note(task: _Task) -> tuple[str, ...]:
    if not task.single or len(task.grid) == 1:
        return ()
    return (f"{_classes(task.single)} a single sample, which leave-one-out can never get right",)


def _checked_grid(grid: Sequence[float], classifier: Classifier) -> tuple[float, ...]:
    """Return the grid, rising, without duplicates."""
    values = sorted({float(value) for value in grid})
    kind = "whole number" if classifier == "knn" else "number"
    if not values or not all(0 < v < math.inf and (kind == "number" or v.is_integer()) for v in values):
        raise ProbeError(f"every {PARAMETERS[classifier]} must be a {kind} above 0, found {list(grid)}")
    return tuple(values)


def _check_subsets(subsets: Sequence[NDArray[np.int64]], count: int) -> None:
    if not subsets:
        raise ProbeError("low-shot needs at least one subset of the train samples; draw_subset makes one")
    for draw, subset in enumerate(subsets):
        rows = np.asarray(subset)
        whole = rows.ndim == 1 and rows.size > 0 and np.issubdtype(rows.dtype, np.integer)
        if not whole or rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) < len(rows):
            raise ProbeError(
                f"subset {draw} must hold distinct row numbers of the {count} train samples, 0 to {count - 1}"
            )


def _merged(notes_of: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return every note once, with the number of draws that it is about unless it is about all."""
    counted = Counter(note for notes in notes_of for note in dict.fromkeys(notes))
    total = len(notes_of)
    return tuple(note if n == total else f"{note} ({n} of {total} draws)" for note, n in counted.items())

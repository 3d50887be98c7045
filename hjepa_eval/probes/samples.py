"""The input of every probe: features with labels, and the checks that come before any computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, first_few
from hjepa_eval.probes.search.bank import Bank, PartOfBank, rows_per_block


@dataclass(frozen=True)
class Samples:
    """Features of one level with their labels.

    Attributes:
        features: float32 [N, D], one row per image; other float types are converted by the checks, not here.
        labels: int64 [N], in [0, num_classes).
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Samples:
        """Return the samples at `index` [M], copied."""
        return Samples(self.features[index], self.labels[index])


@dataclass(frozen=True)
class StreamedSamples:
    """Samples whose features are read block by block, and so may be larger than memory.

    Attributes:
        features: a bank of N rows.
        labels: int64 [N], in [0, num_classes).
    """

    features: Bank
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> StreamedSamples:
        """Return the samples at `index` [M], read when they are asked for."""
        return StreamedSamples(PartOfBank(self.features, index), self.labels[index])

    def read(self) -> Samples:
        """Return all samples in memory."""
        rows = np.arange(len(self.labels))
        return Samples(self.features.rows(rows), self.labels)


AnySamples = TypeVar("AnySamples", bound="Samples | StreamedSamples")


def class_label(index: int, class_names: Sequence[str] | None) -> str:
    """Return how a message names the class at `index`."""
    return f"class {index} ({class_names[index]!r})" if class_names and index < len(class_names) else f"class {index}"


def check_features(features: NDArray, name: str) -> NDArray[np.float32]:
    """Return `features` as contiguous float32 [N, D].

    Raises:
        ProbeError: the array is not [N, D] with N, D >= 1, or holds NaN or infinity.
    """
    _check_shape(features.shape, name)
    array = np.ascontiguousarray(features, dtype=np.float32)
    bad = _not_finite(array)
    if bad.size:
        raise _refuse(bad.size, int(bad[0]), len(array), name)
    return array


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or 0 in shape:
        raise ProbeError(f"{name} features have shape {list(shape)}; expected [N, D] with at least one of each")


def _not_finite(array: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rows of `array` [N, D] that hold NaN or infinity."""
    # The sum is finite if every element is; only a bad or huge one needs the slower look at each row.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(array).all(axis=1))


def _refuse(count: int, first: int, rows: int, name: str) -> ProbeError:
    return ProbeError(
        f"{count} of {rows} {name} features hold NaN or infinity, the first at row {first}; "
        "extract again with --precision fp32, or look for a diverged checkpoint"
    )


def check_labels(labels: NDArray, name: str, *, num_samples: int, num_classes: int) -> NDArray[np.int64]:
    """Return `labels` as int64 [num_samples].

    Raises:
        ProbeError: the length or type is wrong, or a label lies outside [0, num_classes).
    """
    if labels.shape != (num_samples,):
        raise ProbeError(
            f"{name} labels have shape {list(labels.shape)}; expected [{num_samples}], one per feature row"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ProbeError(f"{name} labels are {labels.dtype}; expected whole numbers from 0 to {num_classes - 1}")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        raise ProbeError(
            f"{outside.size} {name} labels lie outside 0 to {num_classes - 1}, the first is {labels[outside[0]]} "
            f"at row {outside[0]}; check the number of classes ({num_classes})"
        )
    return labels.astype(np.int64, copy=False)


def check_one(
    samples: AnySamples, name: str, *, num_classes: int, cosine: bool = False
) -> tuple[AnySamples, tuple[str, ...]]:
    """Return `samples` in the right types, and the notes that a result must carry about them.

    Args:
        samples: features with labels; streamed ones are read once.
        name: how messages call them.
        num_classes: labels lie in [0, num_classes).
        cosine: note rows of zeros too, whose direction (and so whose cosine) is undefined.

    Raises:
        ProbeError: features or labels do not allow a probe.
    """
    features = samples.features
    if isinstance(features, np.ndarray):
        features = check_features(features, name)
        constant = len(features) > 1 and bool((features == features[0]).all())
        zeros = int((~features.any(axis=1)).sum()) if cosine else 0
    else:
        constant, zeros = _read_once(features, name)
    rows = features.shape[0]
    labels = check_labels(samples.labels, name, num_samples=rows, num_classes=num_classes)
    notes = (f"all {name} features are equal: this level carries no information",) if constant else ()
    checked: AnySamples = replace(cast(Any, samples), features=features, labels=labels)
    return checked, notes + (_zeros_note(zeros, rows, name) if cosine else ())


def _read_once(bank: Bank, name: str) -> tuple[bool, int]:
    """Return whether all rows of `bank` are equal and how many are zero, and do what `check_features` does."""
    _check_shape(bank.shape, name)
    first = bank.rows(np.zeros(1, np.int64))
    start = zeros = bad = first_bad = 0
    constant = True
    for block in bank.blocks(rows_per_block(bank)):
        rows = _not_finite(block)
        first_bad = first_bad if bad or not rows.size else start + int(rows[0])
        bad += rows.size
        constant = constant and bool((block == first).all())
        zeros += int((~block.any(axis=1)).sum())
        start += len(block)
    if bad:
        raise _refuse(bad, first_bad, start, name)
    return constant and start > 1, zeros


def check_train(
    train: AnySamples, *, num_classes: int, class_names: Sequence[str] | None = None, cosine: bool = False
) -> tuple[AnySamples, tuple[str, ...]]:
    """Return the train samples in the right types, and the notes that a result must carry about them.

    Raises:
        ProbeError: fewer than two classes, NaN or infinity, labels outside the range, or samples of a single class.
    """
    if num_classes < 2:
        raise ProbeError(f"{num_classes} class gives nothing to tell apart; a probe needs at least 2")
    train, notes = check_one(train, "train", num_classes=num_classes, cosine=cosine)
    present = np.unique(train.labels)
    if len(present) < 2:
        only = class_label(int(present[0]), class_names)
        raise ProbeError(f"all {len(train)} train samples are of {only}; a probe needs at least two classes in train")
    return train, notes


def check_samples(
    train: AnySamples,
    test: Samples,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    cosine: bool = False,
) -> tuple[AnySamples, Samples, tuple[str, ...]]:
    """Return train and test samples in the right types, and the notes that a result must carry about them.

    Constant features and test classes without a train sample give honest, low scores, so they are notes; values that
    make a score meaningless are errors.

    Raises:
        ProbeError: fewer than two classes, NaN or infinity, labels outside the range, train and test of unlike width,
            or a train set of a single class.
    """
    train, train_notes = check_train(train, num_classes=num_classes, class_names=class_names, cosine=cosine)
    test, test_notes = check_one(test, "test", num_classes=num_classes, cosine=cosine)
    if train.features.shape[1] != test.features.shape[1]:
        raise ProbeError(
            f"train features have {train.features.shape[1]} dimensions and test features {test.features.shape[1]}; "
            "both must come from the same encoder, level and readout"
        )
    absent = np.setdiff1d(test.labels, train.labels)
    notes = [*train_notes, *test_notes]
    if absent.size:
        named = first_few(class_label(int(c), class_names) for c in absent)
        notes.append(f"{absent.size} classes of test are absent from train and can never be predicted: {named}")
    return train, test, tuple(notes)


def zero_rows_note(features: NDArray[np.float32], name: str) -> tuple[str, ...]:
    """Return a note if rows of `features` [N, D] are zero, whose direction (and so whose cosine) is undefined."""
    return _zeros_note(int((~features.any(axis=1)).sum()), len(features), name)


def _zeros_note(zeros: int, rows: int, name: str) -> tuple[str, ...]:
    return (f"{zeros} of {rows} {name} features are zero vectors; their cosine counts as 0",) if zeros else ()

"""The input of every probe: features with labels, and the checks that come before any computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, first_few


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


def class_label(index: int, class_names: Sequence[str] | None) -> str:
    """Return how a message names the class at `index`."""
    return f"class {index} ({class_names[index]!r})" if class_names and index < len(class_names) else f"class {index}"


def check_features(features: NDArray, name: str) -> NDArray[np.float32]:
    """Return `features` as contiguous float32 [N, D].

    Raises:
        ProbeError: the array is not [N, D] with N, D >= 1, or holds NaN or infinity.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ProbeError(
            f"{name} features have shape {list(features.shape)}; expected [N, D] with at least one of each"
        )
    array = np.ascontiguousarray(features, dtype=np.float32)
    # The sum is finite if every element is; only a bad or huge one needs the slower look at each row.
    with np.errstate(over="ignore", invalid="ignore"):
        fine = bool(np.isfinite(array.sum(dtype=np.float64)))
    if not fine:
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise ProbeError(
                f"{bad.size} of {len(array)} {name} features hold NaN or infinity, the first at row {bad[0]}; "
                "extract again with --precision fp32, or look for a diverged checkpoint"
            )
    return array


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


def check_one(samples: Samples, name: str, *, num_classes: int) -> tuple[Samples, tuple[str, ...]]:
    """Return `samples` in the right types, and the notes that a result must carry about them.

    Raises:
        ProbeError: features or labels do not allow a probe.
    """
    features = check_features(samples.features, name)
    labels = check_labels(samples.labels, name, num_samples=len(features), num_classes=num_classes)
    constant = len(features) > 1 and bool((features == features[0]).all())
    notes = (f"all {name} features are equal: this level carries no information",) if constant else ()
    return Samples(features, labels), notes


def check_samples(
    train: Samples, test: Samples, *, num_classes: int, class_names: Sequence[str] | None = None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Return train and test samples in the right types, and the notes that a result must carry about them.

    Constant features and test classes without a train sample give honest, low scores, so they are notes; values that
    make a score meaningless are errors.

    Raises:
        ProbeError: fewer than two classes, NaN or infinity, labels outside the range, train and test of unlike width,
            or a train set of a single class.
    """
    if num_classes < 2:
        raise ProbeError(f"{num_classes} class gives nothing to tell apart; a probe needs at least 2")
    train, train_notes = check_one(train, "train", num_classes=num_classes)
    test, test_notes = check_one(test, "test", num_classes=num_classes)
    if train.features.shape[1] != test.features.shape[1]:
        raise ProbeError(
            f"train features have {train.features.shape[1]} dimensions and test features {test.features.shape[1]}; "
            "both must come from the same encoder, level and readout"
        )
    present = np.bincount(train.labels, minlength=num_classes) > 0
    if present.sum() < 2:
        only = class_label(int(np.flatnonzero(present)[0]), class_names)
        raise ProbeError(f"all {len(train)} train samples are of {only}; a probe needs at least two classes in train")
    absent = np.setdiff1d(test.labels, np.flatnonzero(present))
    notes = [*train_notes, *test_notes]
    if absent.size:
        named = first_few(class_label(int(c), class_names) for c in absent)
        notes.append(f"{absent.size} classes of test are absent from train and can never be predicted: {named}")
    return train, test, tuple(notes)


def zero_rows_note(features: NDArray[np.float32], name: str) -> tuple[str, ...]:
    """Return a note if rows of `features` [N, D] are zero, whose direction (and so whose cosine) is undefined."""
    zeros = int((~features.any(axis=1)).sum())
    return (f"{zeros} of {len(features)} {name} features are zero vectors; their cosine counts as 0",) if zeros else ()

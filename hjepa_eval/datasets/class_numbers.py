"""Labels that come as numbers, not as folder names: which classes they stand for, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import DataError, first_few


def numbered_classes(labels: NDArray[np.int64], *, where: str, remedy: str) -> tuple[str, ...]:
    """Return the class numbers 0 to C - 1 in train labels [N] as names.

    Args:
        labels: none below 0.
        where: the train split, for messages.
        remedy: what else can be done if numbers are missing, for messages.

    Raises:
        DataError: some number below the highest is of no image.
    """
    found = np.unique(labels)
    if found[-1] != len(found) - 1:
        raise DataError(
            f"the {len(found)} class numbers of {where} run from {found[0]} to {found[-1]}; "
            f"expected 0 to {len(found) - 1}, {remedy}"
        )
    return tuple(str(label) for label in found)


def check_class_numbers(
    labels: NDArray[np.int64], class_names: Sequence[str], *, where: str, sample: Callable[[int], str]
) -> None:
    """Check that labels [N] are numbers of the classes, and that every class has an image.

    Args:
        labels: none below 0.
        class_names: those of train.
        where: the split, for messages.
        sample: tells for an index into `labels` what to call that sample in messages.

    Raises:
        DataError: a label is of no class, or a class has no label.
    """
    outside = np.flatnonzero(labels >= len(class_names))
    if len(outside):
        raise DataError(
            f"{sample(int(outside[0]))} has label {labels[outside[0]]}, but train has {len(class_names)} classes, "
            "numbered from 0"
        )
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"{where}: no images in class {first_few(empty)}; is a part of the data missing?")

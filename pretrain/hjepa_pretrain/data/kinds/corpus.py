"""What a run of a token model reads: examples without labels to train on, and labelled sets to judge it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledSet:
    """Train and test examples with classes.

    Attributes:
        name: of the set.
        train: state of N train examples.
        test: state of M test examples.
        train_labels: int64 `[N]`.
        test_labels: int64 `[M]`.
        class_names: of each label.
        parts: how many rows of a state make one example, such as the channels of a series; features are joined.
    """

    name: str
    train: Any
    test: Any
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    parts: int = 1


@dataclass(frozen=True)
class Corpus:
    """A kind of data.

    Attributes:
        kind: of `hjepa_pretrain.jepa.tokenisers.TOKENISERS`.
        examples: state of all examples that are trained on; no test example is among them.
        sets: to judge with.
        arguments: of the tokeniser.
        words: what the examples are, for the user.
    """

    kind: str
    examples: Any
    sets: tuple[LabelledSet, ...]
    arguments: dict[str, int]
    words: str


def number_classes(train: list[str], test: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Return class numbers of train and test labels, and the names of the classes in sorted order."""
    names = tuple(sorted(set(train)))
    number = {name: place for place, name in enumerate(names)}
    return np.array([number[name] for name in train]), np.array([number[name] for name in test]), names

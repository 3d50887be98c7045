"""What a dataset is: labelled images of one split, in a fixed order, with a fingerprint of their content."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from torch import Tensor


class ImageDataset(ABC):
    """Labelled images of one split.

    Images are interleaved by class (`interleave`), so the first N are a balanced part of the whole and a shorter
    `--max-samples` is a prefix of a longer one.

    Attributes:
        name: the dataset's name in results.
        split: `train` or `test`.
        class_names: name of each label.
        labels: int64 `[N]`, each an index into `class_names`.
        fingerprint: sha256 over the order, the labels and the content of all images.
        skipped: images left out because they cannot be read (`on_bad_image="skip"`).
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    fingerprint: str
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """


def interleave(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order that takes the first sample of each class, then the second of each, and so on."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))

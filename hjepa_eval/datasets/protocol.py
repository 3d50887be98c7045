"""What a dataset is: labelled images of one split, in a fixed order, with a fingerprint of their content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
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
        notes: what a reader of the results must know, such as a copy that is not complete.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """

    def image_name(self, index: int) -> str | None:
        """Return the name of image `index` as `<class>/<file>`, or None if its source has no file names."""
        return None


def class_ranks(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each sample how many samples of its class come before it."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks


def interleave(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order that takes the first sample of each class, then the second of each, and so on."""
    return np.lexsort((labels, class_ranks(labels)))

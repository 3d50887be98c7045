"""The 1,797 scanned digits that scikit-learn ships: real images that need no download."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset, class_ranks, interleave

if TYPE_CHECKING:
    from torch import Tensor


class Digits(ImageDataset):
    """Handwritten digits, 8x8 pixels, grey levels 0 to 16 stretched to 0 to 255 in three equal channels.

    Every fifth image of a class, in an order shuffled once and for all, is test: 1,442 train and 355 test images.

    Source: UCI Optical Recognition of Handwritten Digits, as `sklearn.datasets.load_digits`.
    """

    def __init__(self, split: str) -> None:
        """Load one split, `train` or `test`."""
        import torch
        from sklearn.datasets import load_digits

        pixels, targets = load_digits(return_X_y=True)
        # RandomState's streams never change between versions of numpy.
        shuffled = np.random.RandomState(0).permutation(len(targets))
        labels = targets[shuffled].astype(np.int64)
        shuffled = shuffled[(class_ranks(labels) % 5 == 4) == (split == "test")]
        chosen = shuffled[interleave(targets[shuffled].astype(np.int64))]
        self.name = "digits"
        self.split = split
        self.class_names = tuple(str(digit) for digit in range(10))
        self.labels = targets[chosen].astype(np.int64)
        self._rows = chosen
        grey = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        self._images = torch.from_numpy(np.repeat(grey, 3, axis=1))
        content = self.labels.tobytes() + grey.tobytes()
        self.fingerprint = hashlib.sha256(f"digits|{split}|".encode() + content).hexdigest()

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 `[3, 8, 8]`."""
        return self._images[index]

    def source_name(self, index: int) -> str:
        """Return `train/<row>` or `test/<row>`, the row of image `index` in what `load_digits` returns."""
        return f"{self.split}/{self._rows[index]}"

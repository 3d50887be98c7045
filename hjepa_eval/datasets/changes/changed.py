"""Changed images as a data set, so that their features are extracted and kept like those of any other."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from hjepa_eval.datasets.changes.changes import Change
from hjepa_eval.datasets.protocol import ImageDataset

if TYPE_CHECKING:
    from torch import Tensor

# As large as images of ImageNet-C are; larger ones would cost more without another answer.
MOST_PIXELS = 224
_BLOCK, _KEPT = 64, 16


@cache
def _code_hash() -> str:
    digest = hashlib.sha256()
    for name in ("changed", "changes", "corruptions", "draws"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


class ChangedImages(ImageDataset):
    """The first images of a data set, square, under one change; with the change None just square.

    An image is cut to its middle square, and resized where it is larger than 224 pixels or unlike the first one.
    """

    def __init__(self, parent: ImageDataset, change: Change | None, *, count: int) -> None:
        """Change the first `count` images of `parent`."""
        self.parent, self.change = parent, change
        self.labels = parent.labels[:count]
        self.class_names, self.split, self.where = parent.class_names, parent.split, parent.where
        self.size = min(MOST_PIXELS, *parent.image(0).shape[1:]) if len(parent) else MOST_PIXELS
        said = "unchanged" if change is None else str(change)
        self.name = f"{parent.name} under {said}" if change is not None else f"{parent.name} as squares"
        seed = 0 if change is None else change.seed
        words = f"{parent.fingerprint}|{count}|{self.size}|{said}|{seed}|{_code_hash()}"
        self.fingerprint = hashlib.sha256(words.encode()).hexdigest()
        self._lock = Lock()
        self._blocks: dict[int, Tensor] = {}

    def square(self, index: int) -> Tensor:
        """Return image `index` unchanged, uint8 `[3, size, size]`."""
        from torchvision.transforms.v2 import functional

        image = self.parent.image(index)
        side = min(image.shape[1:])
        if image.shape[1] != image.shape[2]:
            image = functional.center_crop(image, [side, side])
        resized: Tensor = (
            image if side == self.size else functional.resize(image, [self.size, self.size], antialias=True)
        )
        return resized

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, size, size]`; changes are made for a block of images at once.

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """
        if self.change is None:
            return self.square(index)
        import torch

        start = index - index % _BLOCK
        with self._lock:
            if start not in self._blocks:
                rows = np.arange(start, min(start + _BLOCK, len(self)))
                squares = torch.stack([self.square(int(row)) for row in rows])
                # Threads that decode ahead may ask for several blocks in turn.
                while len(self._blocks) >= _KEPT:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[start] = self.change.apply(squares, rows)
            return self._blocks[start][index - start]

    def source_name(self, index: int) -> str:
        """Return where the unchanged image lies in its source."""
        return self.parent.source_name(index)

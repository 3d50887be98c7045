"""The images of a split for training: decoded once and kept in memory where they fit, else decoded every epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from hjepa_eval.datasets.images import image_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform

MEMORY_SHARE = 0.5


class TrainingImages:
    """The first `count` images of a dataset as uint8 batches in any order.

    Attributes:
        skipped: what could not be read so far, and why.
    """

    def __init__(
        self, dataset: ImageDataset, transform: Transform, *, count: int, workers: int, skip_bad: bool
    ) -> None:
        """Decode the images, if they take less than half of this machine's memory.

        Raises:
            DataError: an image cannot be decoded and `skip_bad` is false.
        """
        self.dataset, self.transform, self.workers, self.skip_bad = dataset, transform, workers, skip_bad
        self.skipped: dict[str, None] = {}
        self._kept: Tensor | None = None
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if count * 3 * math.prod(transform.shape) < MEMORY_SHARE * memory:
            images = torch.empty(count, 3, *transform.shape, dtype=torch.uint8)
            readable = torch.zeros(count, dtype=torch.bool)
            for batch, index in self._decode(torch.arange(count), 256):
                images[index], readable[index] = batch, True
            self._images, self._kept = images, readable

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 images `[B, 3, S, S]`, their indices `[B]`) for int64 indices `[N]`, less what is unreadable.

        Raises:
            DataError: an image cannot be decoded and `skip_bad` is false.
        """
        if self._kept is None:
            yield from self._decode(order, batch_size)
            return
        for part in torch.split(order, batch_size):
            index = part[self._kept[part]]
            if len(index):
                yield self._images[index], index

    def _decode(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = image_batches(
            self.dataset,
            self.transform,
            indices=order.tolist(),
            batch_size=batch_size,
            workers=self.workers,
            skip_bad=self.skip_bad,
        )
        for images, kept, reasons in batches:
            self.skipped.update(dict.fromkeys(reasons.values()))
            if kept:
                yield images, torch.tensor(kept)

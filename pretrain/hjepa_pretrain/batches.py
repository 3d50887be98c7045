"""The whole data set as uint8 in memory, and the order in which a run goes through it."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from hjepa_eval.datasets.images import image_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError


def load_images(
    dataset: ImageDataset, transform: Transform, *, max_samples: int | None = None, workers: int = 4
) -> Tensor:
    """Return the first `max_samples` images of a dataset (all by default) as uint8 `[N, 3, size, size]`.

    Raises:
        DataError: an image cannot be decoded, or the images do not fit into the memory of this machine.
    """
    count = len(dataset) if max_samples is None else min(max_samples, len(dataset))
    needed = count * 3 * transform.size**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.7 * memory:
        raise DataError(
            f"{count:,} images of {transform.size} pixels need {needed / 1e9:.0f} GB of the {memory / 1e9:.0f} GB of "
            "this machine; lower data.max_samples or data.image_size"
        )
    images = torch.empty(count, 3, transform.size, transform.size, dtype=torch.uint8)
    start = 0
    for batch, kept, _ in image_batches(dataset, transform, indices=range(count), batch_size=256, workers=workers):
        images[start : start + len(kept)] = batch
        start += len(kept)
    return images


class BatchOrder:
    """Which images a step works on: a new permutation every epoch, a function of (seed, step) alone."""

    def __init__(self, num_images: int, batch_size: int, *, seed: int) -> None:
        """Prepare batches of `batch_size`; the rest of an epoch that fills no batch is left out of that epoch.

        Raises:
            DataError: there are fewer images than a batch holds.
        """
        if num_images < batch_size:
            raise DataError(f"{num_images} images do not fill a batch of {batch_size}; lower train.batch_size")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.steps_per_epoch = num_images // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Return int64 `[batch_size]`, the images of a `step`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.num_images, generator=seeded_generator(self.seed, epoch, "order"))
            self._epoch = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

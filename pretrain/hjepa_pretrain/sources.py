"""Where the images of a step come from: the whole data set in the device's memory, or decoded when needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from hjepa_eval.datasets.images import image_batches, load_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError
from hjepa_pretrain.batches import BatchOrder
from hjepa_pretrain.config import DataSettings

_RESIDENT_SHARE = 0.4  # of a CUDA device's free memory; the rest is for weights and activations
_HOST_SHARE = 0.7


class ImageSource(Protocol):
    """Gives the images of a step."""

    def batch(self, step: int) -> Tensor:
        """Return uint8 `[B, 3, S, S]` on the device."""


class ResidentImages:
    """The whole data set as uint8 on the device: a step costs one gather."""

    def __init__(self, images: Tensor, order: BatchOrder) -> None:
        """Hold uint8 images `[N, 3, S, S]`, which `order` numbers."""
        self.images, self.order = images, order

    def batch(self, step: int) -> Tensor:
        """Return uint8 `[B, 3, S, S]` on the images' device."""
        indices = self.order.indices(step)
        if self.images.device.type == "cuda":
            indices = indices.pin_memory().to(self.images.device, non_blocking=True)
        return self.images[indices]


class DecodedImages:
    """Images that threads decode ahead of the steps, in the order of the steps."""

    def __init__(
        self, dataset: ImageDataset, transform: Transform, order: BatchOrder, *, workers: int, device: torch.device
    ) -> None:
        """Prepare to decode; nothing is read before the first step."""
        self.dataset, self.transform, self.order = dataset, transform, order
        self.workers, self.device = workers, device
        self._next = -1
        self._batches: Iterator[Tensor] = iter(())

    def batch(self, step: int) -> Tensor:
        """Return uint8 `[B, 3, S, S]` on the device.

        Raises:
            DataError: an image cannot be decoded; the message names it.
        """
        if step != self._next:
            self._batches = self._from(step)
        self._next = step + 1
        return next(self._batches).to(self.device, non_blocking=True)

    def _from(self, step: int) -> Iterator[Tensor]:
        while True:
            last = (step // self.order.steps_per_epoch + 1) * self.order.steps_per_epoch
            parts = [self.order.indices(number).tolist() for number in range(step, last)]
            pin = self.device.type == "cuda"
            for images, _, _ in load_batches(self.dataset, self.transform, parts, workers=self.workers, pin=pin):
                yield images
            step = last


def fits(count: int, size: int, device: torch.device) -> bool:
    """Tell whether `count` uint8 images of `size` pixels have room in the device's memory beside a training run."""
    needed = count * 3 * size**2
    if device.type == "cuda":
        return needed <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return needed <= _HOST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def image_source(
    dataset: ImageDataset,
    transform: Transform,
    order: BatchOrder,
    *,
    settings: DataSettings,
    count: int,
    device: torch.device,
) -> ImageSource:
    """Return where the images of a run come from, as `data.placement` says.

    Args:
        dataset: the images; of a resident data set the first `count` are read now.
        transform: how images are resized before any augmentation.
        order: which images a step works on.
        settings: placement and threads.
        count: images of the data set that may be used.
        device: where batches are needed.

    Raises:
        DataError: an image cannot be decoded, or `placement: device` asks for more memory than there is.
    """
    resident = settings.placement == "device" or (settings.placement == "auto" and fits(count, transform.size, device))
    if not resident:
        return DecodedImages(dataset, transform, order, workers=settings.workers, device=device)
    if not fits(count, transform.size, device):
        raise DataError(
            f"{count:,} images of {transform.size} pixels need {count * 3 * transform.size**2 / 1e9:.0f} GB, more than "
            f"there is on {device}; set data.placement to loader, or lower data.max_samples or data.image_size"
        )
    images = read_images(dataset, transform, torch.arange(count), workers=settings.workers)
    return ResidentImages(images.to(device), order)


def read_images(dataset: ImageDataset, transform: Transform, positions: Tensor, *, workers: int) -> Tensor:
    """Return the images at `positions` `[N]` as uint8 `[N, 3, S, S]` in the host's memory.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    images = torch.empty(len(positions), 3, transform.size, transform.size, dtype=torch.uint8)
    start = 0
    for batch, kept, _ in image_batches(
        dataset, transform, indices=positions.tolist(), batch_size=256, workers=max(1, workers)
    ):
        images[start : start + len(kept)] = batch
        start += len(kept)
    return images

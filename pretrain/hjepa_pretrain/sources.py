"""Where the images of a step come from: the whole data set in the device's memory, or decoded when needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from hjepa_eval.datasets.images import load_batches, stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError
from hjepa_eval.ranks import read_ranks
from hjepa_pretrain.batches import BatchOrder
from hjepa_pretrain.config import DataSettings
from hjepa_pretrain.host_memory import available_memory

_RESIDENT_SHARE = 0.4  # of a CUDA device's free memory; the rest is for weights and activations
_HOST_SHARE = 0.7  # of this machine's free memory; decoding and measurements need some too


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
        # Without an end, so that decoding goes on ahead over the ends of epochs.
        parts = (self.order.indices(number).tolist() for number in itertools.count(step))
        pin = self.device.type == "cuda"
        for images, _, _ in load_batches(self.dataset, self.transform, parts, workers=self.workers, pin=pin):
            yield images


def room(device: torch.device, *, ranks: int = 1) -> int:
    """Return the bytes of images that may be kept on `device` now, beside a training run of so many `ranks`.

    Images pass through the host's memory on their way to a CUDA device, and ranks on one machine share it.
    """
    sharers = min(ranks, read_ranks().local_world_size)
    host = int(_HOST_SHARE * available_memory() / sharers)
    if device.type != "cuda":
        return host
    return min(host, int(_RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]))


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
        DataError: an image cannot be decoded, or `placement: device` asks for more memory than images may take.
    """
    needed = count * 3 * transform.size**2
    there = 0 if settings.placement == "loader" else room(device, ranks=order.ranks)
    if settings.placement == "loader" or (settings.placement == "auto" and needed > there):
        return DecodedImages(dataset, transform, order, workers=settings.workers, device=device)
    if needed > there:
        limits = f"{_HOST_SHARE:.0%} of this machine's free memory, shared by its ranks"
        if device.type == "cuda":
            limits += f", and {_RESIDENT_SHARE:.0%} of the GPU's"
        raise DataError(
            f"{count:,} images of {transform.size} pixels need {needed / 1e9:.3g} GB, but images on {device} may take "
            f"{there / 1e9:.3g} GB now ({limits}); set data.placement to loader, or lower data.max_samples or "
            f"{'data.image_size' if settings.stored_size is None else 'data.stored_size'}"
        )
    images = stack_images(dataset, transform, indices=range(count), workers=settings.workers)
    return ResidentImages(images.to(device), order)

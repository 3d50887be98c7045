"""Which images are trained on, which are held out, in what order, and where they come from: memory or decoding."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hjepa_eval.datasets.images import load_batches, stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError
from hjepa_eval.machine.ranks import read_ranks
from hjepa_pretrain.config.settings import DataSettings

MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Split:
    """Positions of a data set's train images, int64 and sorted: `trained` on, and `held_out` for measurements."""

    trained: Tensor
    held_out: Tensor


def split_images(count: int, share: float) -> Split:
    """Hold out a `share` of `count` images, at most 5,000, drawn once and the same for every seed of a run."""
    held_out = min(MOST_HELD_OUT, int(count * share))
    order = torch.randperm(count, generator=seeded_generator(0, count, "held out"))
    return Split(order[held_out:].sort().values, order[:held_out].sort().values)


class BatchOrder:
    """Which images a step works on: a new permutation every epoch, a function of (seed, step) alone."""

    def __init__(
        self, positions: Tensor, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1, parts: int = 1
    ) -> None:
        """Prepare batches of `batch_size` images at `positions` `[N]`, of which this of all `ranks` takes its part.

        A batch is computed in `parts`, one after another; each is shared by all ranks, so a part has the same images
        for any number of ranks.
        The rest of an epoch that fills no batch is left out of that epoch.

        Raises:
            DataError: there are fewer images than a batch holds.
        """
        if len(positions) < batch_size:
            raise DataError(f"{len(positions)} images do not fill a batch of {batch_size}; lower train.batch_size")
        self.positions, self.batch_size, self.seed = positions, batch_size, seed
        self.rank, self.ranks, self.parts = rank, ranks, parts
        self.steps_per_epoch = len(positions) // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def whole(self, step: int) -> Tensor:
        """Return int64 `[batch_size]`, the images of a `step` over all ranks."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = seeded_generator(self.seed, epoch, "order")
            self._order = self.positions[torch.randperm(len(self.positions), generator=generator)]
            self._epoch = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def indices(self, step: int) -> Tensor:
        """Return int64 `[batch_size / ranks]`, the images of a `step` for this rank, one part after another."""
        return self.whole(step).view(self.parts, self.ranks, -1)[:, self.rank].flatten()


def available_memory(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process can take before something is swapped out or killed.

    The least of what the kernel calls available and what each control group (v2) around the process has left. Where the
    kernel says nothing, all physical memory counts as free.

    Args:
        proc: where the kernel tells about processes and memory.
        cgroups: where the tree of control groups is mounted.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(proc / "meminfo"), re.MULTILINE)
    machine = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_left_in_groups(proc, cgroups)])


def _left_in_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the bytes left under the limit of each group that has one, from the process's own to the outermost."""
    own = re.search(r"^0::/(.*)$", _text(proc / "self" / "cgroup"), re.MULTILINE)
    if own is None:
        return
    folder = cgroups / own[1]
    for group in (folder, *folder.parents):
        if not group.is_relative_to(cgroups):
            return
        limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            # Files that were read are counted as used, and let go of when memory is wanted.
            cached = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            yield max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


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

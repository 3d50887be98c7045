"""What tokens take on disk, known before any of them is computed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.errors import StoreError
from hjepa_eval.extraction.extract import describe, finished_images
from hjepa_eval.extraction.passes import Compute
from hjepa_eval.features.cache import store_folder


@dataclass(frozen=True)
class Budget:
    """Bytes of a readout's stores.

    Attributes:
        images: of all data sets.
        per_image: bytes of one, over all levels.
        lacking: bytes that the cache does not have yet.
    """

    images: int
    per_image: int
    lacking: int

    def sentence(self, readout: str) -> str:
        """Return what a reader should know before it begins."""
        total = _size(self.images * self.per_image)
        stored = "all of it there already" if not self.lacking else f"{_size(self.lacking)} of it to be written"
        return f"{readout} of {self.images:,} images: {_size(self.per_image)} each, {total} on disk, {stored}"


def budget_of(
    encoder: EncoderHandle, datasets: Sequence[ImageDataset], readout: str, *, cache_dir: Path, settings: Compute
) -> Budget:
    """Return what the stores of a readout of all levels take for some data sets."""
    images = lacking = row = 0
    for dataset in datasets:
        manifests = [describe(encoder, dataset, readout, settings, compiled=compiled) for compiled in (False, True)]
        row = sum(level.width for level in manifests[0].levels) * np.dtype(manifests[0].storage).itemsize
        there = max(finished_images(store_folder(cache_dir, manifest), manifest) for manifest in manifests)
        images += manifests[0].num_images
        lacking += max(0, manifests[0].num_images - there) * row
    return Budget(images, row, lacking)


def check_disk(budget: Budget, cache_dir: Path) -> None:
    """Check that what is lacking fits on the disk of the cache.

    Raises:
        StoreError: it does not; the message has both numbers.
    """
    parent = next(folder for folder in (cache_dir, *cache_dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if budget.lacking > free:
        raise StoreError(
            f"tokens need {_size(budget.lacking)} more, and the disk of {cache_dir} has {_size(free)} left; take fewer "
            "with --token-images or --max-samples, or another disk with --cache-dir"
        )


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"

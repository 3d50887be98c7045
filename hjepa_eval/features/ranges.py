"""Ranges: how the images of a dataset are divided among the shards of a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hjepa_eval.features.manifest import Manifest, shard_file

SHARD_SIZE = 4096
_SMALLEST_SHARD = 64
_SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class Range:
    """Images `start` to `stop` of a dataset's order."""

    start: int
    stop: int

    @property
    def file(self) -> str:
        """Name of the shard that holds this range."""
        return shard_file(self.start, self.stop)


def shard_rows(manifest: Manifest) -> int:
    """Return how many images a shard of this store holds: 4096, halved while that is beyond 128 MiB, at least 64.

    So extraction, which holds one shard in memory, stays bounded however wide the features are.
    """
    row = sum(level.width for level in manifest.levels) * np.dtype(manifest.storage).itemsize
    rows = SHARD_SIZE
    while rows * row > _SHARD_BYTES and rows // 2 >= _SMALLEST_SHARD:
        rows //= 2
    return rows


def shard_ranges(num_images: int, rows: int) -> list[Range]:
    """Return the ranges of the shards of at most `rows` images that cover `num_images` images."""
    return [Range(start, min(start + rows, num_images)) for start in range(0, num_images, rows)]

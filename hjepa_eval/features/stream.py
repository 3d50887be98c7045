"""One level of a store as a stream: features that are read block by block and never all held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hjepa_eval.features.shards import read_into

if TYPE_CHECKING:
    from hjepa_eval.features.store import FeatureStore


class StoredFeatures:
    """The features of one level in the dataset's order; a `Bank` for the probes, which do not know stores."""

    def __init__(self, store: FeatureStore, level: int, *, limit: int | None = None) -> None:
        """Take level `level` of `store`, up to the place `limit` of the dataset's order.

        Raises:
            UnknownNameError: there is no such level.
            StoreError: a shard cannot be read any more; the message names it.
        """
        self._name = f"level{level}"
        self._width = store.level(level).width
        self._paths = [store.folder / shard.file for shard in store.manifest.shards]
        # Shard i holds the rows from `bounds[i]` to `bounds[i + 1]`.
        self._bounds = np.cumsum([0, *(shard.rows for shard in store.manifest.shards)])
        self._rows = store.manifest.rows if limit is None else len(store.index(limit=limit))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples N and of dimensions D."""
        return self._rows, self._width

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield all features in order, float32 [`rows`, D] at a time; the last block may be shorter.

        Raises:
            StoreError: a shard cannot be read any more; the message names it.
        """
        for start in range(0, self._rows, rows):
            yield self._read(np.arange(start, min(start + rows, self._rows)))

    def rows(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the features at `index` [M], in any order, as float32 [M, D]; each is read once.

        Raises:
            IndexError: an index lies outside [0, N).
            StoreError: a shard cannot be read any more; the message names it.
        """
        wanted, places = np.unique(index, return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self._rows:
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {self._rows}")
        return self._read(wanted)[places]

    def _read(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the features at `wanted` [M], rising."""
        features = np.empty((len(wanted), self._width), np.float32)
        edges = np.searchsorted(wanted, self._bounds)
        for shard in np.flatnonzero(np.diff(edges)):
            part = slice(edges[shard], edges[shard + 1])
            read_into(features[part], self._paths[shard], self._name, wanted[part] - self._bounds[shard])
        return features

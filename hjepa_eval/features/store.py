"""The feature store, opened for reading and checked; a level of it whole, or block by block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hjepa_eval.errors import StoreError, unknown
from hjepa_eval.features.manifest import MANIFEST, StoredLevel, read_manifest
from hjepa_eval.features.shards import read_into, read_rows, shard_problems


class FeatureStore:
    """A complete store, opened for reading: every byte was checked against the manifest, or only every size."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        """Open the store in `folder`.

        Args:
            folder: where the manifest lies.
            verify: check the sha256 of every shard now; otherwise only that all are there, of the right size.

        Raises:
            StoreError: the manifest is absent or edited, or a shard is missing or damaged; the message names it.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._whole: dict[str, npt.NDArray[np.int64]] = {}
        problems = list(shard_problems(folder, self.manifest, verify=verify))
        if problems:
            raise StoreError(f"{problems[0]}; run hjepa extract again, it repairs only what is damaged")
        with contextlib.suppress(OSError):
            os.utime(folder / MANIFEST)  # When a store was last used, for `hjepa cache gc`; a read-only one has none.

    def level(self, index: int) -> StoredLevel:
        """Return the stored level `index`.

        Raises:
            UnknownNameError: the encoder has no such level; the message says which it has.
        """
        for level in self.manifest.levels:
            if level.index == index:
                return level
        raise unknown(f"level of {self.manifest.encoder}", str(index), [str(lv.index) for lv in self.manifest.levels])

    def features(self, index: int, *, limit: int | None = None) -> npt.NDArray[np.float32]:
        """Return the features of a level, float32 `[N, D]`, in the dataset's order.

        Args:
            index: the level.
            limit: only images before this place of the dataset's order.

        Raises:
            UnknownNameError: there is no such level.
            StoreError: a shard cannot be read any more; the message names it.
        """
        self.level(index)
        return self._read(f"level{index}", self._rows(limit), np.float32)

    def stream(self, index: int, *, limit: int | None = None) -> StoredFeatures:
        """Return what `features` returns as a bank that is read block by block, and so may be larger than memory."""
        return StoredFeatures(self, index, limit=limit)

    def labels(self, *, limit: int | None = None) -> npt.NDArray[np.int64]:
        """Return the labels, int64 `[N]`.

        Raises:
            StoreError: a shard cannot be read any more; the message names it.
        """
        return np.array(self._column("labels")[: self._rows(limit)])

    def index(self, *, limit: int | None = None) -> npt.NDArray[np.int64]:
        """Return each sample's place in the dataset's order, int64 `[N]`, rising.

        Raises:
            StoreError: a shard cannot be read any more; the message names it.
        """
        return np.array(self._column("index")[: self._rows(limit)])

    def _rows(self, limit: int | None) -> int:
        """Return how many samples lie before place `limit` of the dataset's order."""
        return self.manifest.rows if limit is None else int(np.searchsorted(self._column("index"), limit))

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        """Return the whole `labels` or `index`, read once."""
        if name not in self._whole:
            self._whole[name] = self._read(name, self.manifest.rows, np.int64)
        return self._whole[name]

    def _read(self, name: str, rows: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the first `rows` rows of a tensor; nothing else of the shards is read."""
        parts: list[npt.NDArray[Any]] = []
        for shard in self.manifest.shards:
            wanted = min(shard.rows, rows)
            rows -= wanted
            if wanted or not parts:
                parts.append(read_rows(self.folder / shard.file, name, rows=wanted))
        return np.concatenate(parts, dtype=kind)


def verify_store(folder: Path) -> list[str]:
    """Return everything wrong with the store in `folder`; an empty list means that it is whole."""
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return [str(error)]
    problems = list(shard_problems(folder, manifest, verify=True))
    place = folder.absolute()
    if place.parents[2:3] and place.parents[2].name == "features" and place.name != manifest.key[:16]:
        problems.append(f"{folder} holds the store {manifest.key[:16]}: it was copied to the wrong place; remove it")
    return problems


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

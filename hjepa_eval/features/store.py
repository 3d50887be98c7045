"""The feature store: safetensors shards and a manifest, in a folder named by what the features depend on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hjepa_eval.errors import StoreError, unknown
from hjepa_eval.features.claims import filling
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.features.layout import pack_shard, read_about
from hjepa_eval.features.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    StoredLevel,
    read_manifest,
    shard_file,
    write_manifest,
)
from hjepa_eval.features.shards import read_rows, shard_problems
from hjepa_eval.features.stream import StoredFeatures

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


class FeatureStore:
    """A complete store, opened for reading: every byte was checked against the manifest."""

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        """Open the store in `folder`.

        Args:
            folder: where the manifest lies.
            verify: check the sha256 of every shard now, not only its size.

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


class StoreWriter:
    """Fills a store shard by shard; whatever is already there and whole is kept."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Start or go on with the store in `folder`.

        Args:
            folder: where the store lies; created when absent.
            manifest: what the store will hold, without shards.

        Raises:
            StoreError: the folder cannot be created or written.
        """
        self.folder = folder
        self.manifest = manifest
        self._ranges = shard_ranges(manifest.num_images, shard_rows(manifest))
        self._done: dict[str, tuple[Shard, tuple[str, ...]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot write the cache folder {folder}: {error.strerror}; "
                "choose another with --cache-dir or HJEPA_CACHE"
            ) from None
        self.refresh()

    def refresh(self) -> None:
        """Take in shards that other processes have written meanwhile."""
        for part in self.missing:
            found = self._recover(part)
            if found is not None:
                self._done[part.file] = found

    @property
    def missing(self) -> list[Range]:
        """Ranges whose shard is absent or damaged."""
        return [part for part in self._ranges if part.file not in self._done]

    def _recover(self, part: Range) -> tuple[Shard, tuple[str, ...]] | None:
        path = self.folder / part.file
        if not path.is_file():
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        about = read_about(content)
        if about is None or about.get("key") != self.manifest.key:
            return None
        skipped = tuple(about["skipped"])
        rows = part.stop - part.start - len(skipped)
        digest = hashlib.sha256(content).hexdigest()
        return Shard(part.file, part.start, part.stop, rows, len(content), digest), skipped

    def write(self, part: Range, tensors: Mapping[str, npt.NDArray[Any]], skipped: tuple[str, ...] = ()) -> None:
        """Write one shard: `labels`, `index` and `level0`, `level1`, ... with equal first dimensions.

        Args:
            part: which shard.
            tensors: int64 labels and index; levels in the dtype that the manifest's storage names.
            skipped: why images of this range are not among them.

        Raises:
            ValueError: a level has another dtype.
            StoreError: a value is too large for float16, the disk is full, or the folder cannot be written; finished
                shards stay.
        """
        skipped = tuple(" ".join(reason.split()) for reason in skipped)
        self._check_levels(part, tensors)
        content = pack_shard(tensors, {"key": self.manifest.key, "skipped": skipped})
        try:
            write_atomically(self.folder / part.file, content)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder / part.file}: {error.strerror}; "
                f"{len(self._done)} finished shards stay, make room or repair the folder and run the same command again"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        shard = Shard(part.file, part.start, part.stop, len(tensors["index"]), len(content), digest)
        self._done[part.file] = shard, skipped

    def _check_levels(self, part: Range, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for level in self.manifest.levels:
            array = tensors[f"level{level.index}"]
            if array.dtype != self.manifest.storage:
                raise ValueError(f"level{level.index} is {array.dtype}, the manifest says {self.manifest.storage}")
            if array.dtype == np.float16 and np.isinf(array).any():
                raise StoreError(
                    f"level {level.index} of images {part.start} to {part.stop} has values beyond 65504, the largest "
                    f"that float16 can hold, so {self.folder / part.file} was not written; run with --storage fp32"
                )

    def finish(self) -> FeatureStore:
        """Write the manifest, remove files that it does not name, and return the complete store.

        Raises:
            StoreError: a shard is still missing, or the manifest cannot be written.
        """
        if self.missing:
            raise StoreError(f"{self.folder} still lacks the shard {self.missing[0].file}; run hjepa extract again")
        done = [self._done[part.file] for part in self._ranges]
        shards = tuple(shard for shard, _ in done)
        skipped = tuple(reason for _, reasons in done for reason in reasons)
        try:
            write_manifest(self.folder, replace(self.manifest, shards=shards, skipped=skipped))
            if not filling(self.folder):
                for leftover in self.folder.glob(".*"):
                    leftover.unlink(missing_ok=True)  # Temporary files of a killed process.
            for superseded in self._overlapping(shards):
                superseded.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.folder / MANIFEST}: {error.strerror}; the shards stay") from None
        return FeatureStore(self.folder, verify=False)

    def _overlapping(self, shards: Sequence[Shard]) -> list[Path]:
        """Return files of the folder that hold images of these `shards` under another name, as a shorter run left them.

        Shards beyond the last image stay: a longer run is at work on them, or was.
        """
        names = {shard.file for shard in shards}
        files = (path for path in self.folder.glob("*-*.safetensors") if path.name not in names)
        return [path for path in files if int(path.name.partition("-")[0]) < self.manifest.num_images]

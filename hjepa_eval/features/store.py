"""The feature store: safetensors shards and a manifest, in a folder named by what the features depend on."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from hjepa_eval.errors import StoreError, unknown
from hjepa_eval.features.fingerprint import canonical_json, write_atomically
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


@dataclass(frozen=True)
class Range:
    """Images `start` to `stop` of a dataset's order."""

    start: int
    stop: int

    @property
    def file(self) -> str:
        """Name of the shard that holds this range."""
        return shard_file(self.start, self.stop)


def shard_ranges(num_images: int) -> list[Range]:
    """Return the ranges of the shards that cover `num_images` images."""
    return [Range(start, min(start + SHARD_SIZE, num_images)) for start in range(0, num_images, SHARD_SIZE)]


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
        return self._read(f"level{index}", self._rows(limit))

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
            self._whole[name] = self._read(name, self.manifest.rows)
        return self._whole[name]

    def _read(self, name: str, rows: int) -> npt.NDArray[Any]:
        """Return the first `rows` rows of a tensor; nothing else of the shards is read."""
        parts: list[npt.NDArray[Any]] = []
        for shard in self.manifest.shards:
            wanted = min(shard.rows, rows)
            rows -= wanted
            if wanted or not parts:
                parts.append(read_rows(self.folder / shard.file, name, rows=wanted))
        return np.concatenate(parts)


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
        self._done: dict[str, tuple[Shard, tuple[str, ...]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*"):
                leftover.unlink()  # Temporary files of a killed process; the lock lies beside the folder.
        except OSError as error:
            raise StoreError(
                f"cannot write the cache folder {folder}: {error.strerror}; "
                "choose another with --cache-dir or HJEPA_CACHE"
            ) from None
        for part in shard_ranges(manifest.num_images):
            found = self._recover(part)
            if found is not None:
                self._done[part.file] = found

    @property
    def missing(self) -> list[Range]:
        """Ranges whose shard is absent or damaged."""
        return [part for part in shard_ranges(self.manifest.num_images) if part.file not in self._done]

    def _recover(self, part: Range) -> tuple[Shard, tuple[str, ...]] | None:
        path = self.folder / part.file
        if not path.is_file():
            return None
        try:
            content = path.read_bytes()
            load_tensors(content)
        except (OSError, SafetensorError):
            return None
        (length,) = struct.unpack("<Q", content[:8])
        about = json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("hjepa", "{}"))
        payload = hashlib.sha256(content[8 + length :]).hexdigest()
        if about.get("payload") != payload or about.get("key") != self.manifest.key:
            return None
        skipped = tuple(about["skipped"])
        rows = part.stop - part.start - len(skipped)
        digest = hashlib.sha256(content).hexdigest()
        return Shard(part.file, part.start, part.stop, rows, len(content), digest), skipped

    def write(self, part: Range, tensors: Mapping[str, npt.NDArray[Any]], skipped: tuple[str, ...] = ()) -> None:
        """Write one shard: `labels`, `index` and `level0`, `level1`, ... with equal first dimensions.

        Raises:
            StoreError: the disk is full or the folder cannot be written; finished shards stay.
        """
        skipped = tuple(" ".join(reason.split()) for reason in skipped)
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        plain = save_tensors(arrays)
        (length,) = struct.unpack("<Q", plain[:8])
        about = {
            "key": self.manifest.key,
            "payload": hashlib.sha256(plain[8 + length :]).hexdigest(),
            "skipped": skipped,
        }
        # One entry only: safetensors writes several in an order that differs from process to process.
        content = save_tensors(arrays, metadata={"hjepa": canonical_json(about)})
        try:
            write_atomically(self.folder / part.file, content)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder / part.file}: {error.strerror}; "
                f"{len(self._done)} finished shards stay, make room or repair the folder and run the same command again"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        shard = Shard(part.file, part.start, part.stop, len(arrays["index"]), len(content), digest)
        self._done[part.file] = shard, skipped

    def finish(self) -> FeatureStore:
        """Write the manifest, remove files that it does not name, and return the complete store.

        Raises:
            StoreError: a shard is still missing, or the manifest cannot be written.
        """
        if self.missing:
            raise StoreError(f"{self.folder} still lacks the shard {self.missing[0].file}; run hjepa extract again")
        done = [self._done[part.file] for part in shard_ranges(self.manifest.num_images)]
        shards = tuple(shard for shard, _ in done)
        skipped = tuple(reason for _, reasons in done for reason in reasons)
        try:
            write_manifest(self.folder, replace(self.manifest, shards=shards, skipped=skipped))
            for stale in set(self.folder.glob("*.safetensors")) - {self.folder / shard.file for shard in shards}:
                stale.unlink()
        except OSError as error:
            raise StoreError(f"cannot write {self.folder / MANIFEST}: {error.strerror}; the shards stay") from None
        return FeatureStore(self.folder, verify=False)

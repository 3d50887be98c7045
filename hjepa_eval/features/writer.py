"""Writing a store: safetensors shards, whose features begin at page boundaries, and a manifest that comes last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hjepa_eval.errors import StoreError
from hjepa_eval.features.claims import filling
from hjepa_eval.features.fingerprint import canonical_json, parse_json, write_atomically
from hjepa_eval.features.manifest import MANIFEST, Manifest, Range, Shard, shard_ranges, shard_rows, write_manifest
from hjepa_eval.features.names import write_names
from hjepa_eval.features.shards import superseded
from hjepa_eval.features.store import FeatureStore

# The largest page of common machines (16 KiB on Apple's; 4 KiB on most others); one row of 4096 float32 values too.
ALIGNMENT = 16384

# Below it, float16 loses a digit for every factor of ten.
_SMALLEST_HALF = float(np.finfo(np.float16).smallest_normal)

_NAMES = {"<i8": "I64", "<f4": "F32", "<f2": "F16"}

# Every shard begins so, behind the length of its header: the checksum is found without trusting what follows.
_OPENING = b'{"__metadata__":{"checksum":"'
_CHECKSUM = slice(8 + len(_OPENING), 8 + len(_OPENING) + 64)
_BLANK = "0" * 64


def pack_shard(tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """Return a shard's bytes, the same for the same content: integers first, then the levels, each at a page boundary.

    The header is padded with spaces, as the format allows. The format allows no holes between tensors, so a tensor of
    zero bytes named `padding.<level>` fills each; a full shard of float32 needs none. The header holds the sha256 of
    the whole shard, in which that checksum itself reads as zeros.

    Args:
        tensors: int64, float32 or float16.
        about: what the header says besides, as JSON under `hjepa`.

    Raises:
        ValueError: a tensor has another dtype.
    """
    entries: dict[str, Any] = {}
    parts: list[npt.NDArray[np.uint8]] = []
    size = 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, len(item[0]), item[0])):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        if little.dtype.str not in _NAMES:
            raise ValueError(f"{name} is {array.dtype}, expected int64, float32 or float16")
        gap = -size % ALIGNMENT if little.dtype.kind == "f" else 0
        if gap:
            entries[f"padding.{name}"] = _entry("U8", (gap,), size, gap)
            parts.append(np.zeros(gap, np.uint8))
            size += gap
        entries[name] = _entry(_NAMES[little.dtype.str], little.shape, size, little.nbytes)
        parts.append(little.reshape(-1).view(np.uint8))
        size += little.nbytes
    metadata = {"checksum": _BLANK, "hjepa": canonical_json(about)}
    header = canonical_json({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    beginning = bytearray(len(header).to_bytes(8, "little") + header)
    digest = hashlib.sha256(beginning)
    for part in parts:
        digest.update(part.data)
    beginning[_CHECKSUM] = digest.hexdigest().encode()
    return b"".join([beginning, *(part.data for part in parts)])


def check_small(features: npt.NDArray[np.float32], *, level: int, where: str) -> None:
    """Check that float16 keeps features [B, D]: what is below 6.1e-5 has fewer than 3 digits there, or becomes zero.

    Of a row, its largest value counts: what vanishes beside a large one is lost in rounding anyway. Rows of zeros stay.

    Raises:
        StoreError: some rows are too small; the message says how many.
    """
    largest = np.abs(features).max(axis=1, initial=0.0)
    small = (largest > 0) & (largest < _SMALLEST_HALF)
    if small.any():
        raise StoreError(
            f"{int(small.sum()):,} of {len(features):,} images of a batch have features at level {level} that are all "
            f"below {_SMALLEST_HALF:.1e}, the smallest that float16 holds with 3 digits (the largest of one is "
            f"{largest[small].min():.1e}), so {where} was not written; run with --storage fp32"
        )


def read_about(content: bytes) -> dict[str, Any] | None:
    """Return what the header of a shard's bytes says besides, or None when any of them is not as it was written."""
    view = memoryview(content)
    digest = hashlib.sha256(view[: _CHECKSUM.start])
    digest.update(_BLANK.encode())
    digest.update(view[_CHECKSUM.stop :])
    if not content.startswith(_OPENING, 8) or content[_CHECKSUM] != digest.hexdigest().encode():
        return None
    try:
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = parse_json(header["__metadata__"]["hjepa"])
    except (ValueError, KeyError, TypeError):
        return None  # Whole, but no shard of ours.
    return about if isinstance(about, dict) else None


def _entry(kind: str, shape: tuple[int, ...], start: int, length: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + length]}


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
        """Return what is known of a shard that is there and whole, else None.

        A shard vouches for itself, as its checksum covers every byte. A manifest that names another sha256 is the older
        of the two: a process that repaired the shard, with the roundings of another device, did not come to its end.
        """
        try:
            content = (self.folder / part.file).read_bytes()
        except OSError:
            return None
        about = read_about(content) or {}
        skipped = about.get("skipped")
        same = about.get("key") == self.manifest.key and about.get("images") == [part.start, part.stop]
        if not same or not isinstance(skipped, list):
            return None
        rows = part.stop - part.start - len(skipped)
        if rows < 0 or not all(isinstance(reason, str) for reason in skipped):
            return None
        digest = hashlib.sha256(content).hexdigest()
        return Shard(part.file, part.start, part.stop, rows, len(content), digest), tuple(skipped)

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
        about = {"images": [part.start, part.stop], "key": self.manifest.key, "skipped": skipped}
        content = pack_shard(tensors, about)
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

    def finish(self, names: Sequence[str] | None = None) -> FeatureStore:
        """Write the manifest, remove files that it does not name, and return the complete store.

        Args:
            names: where each of the images asked for comes from, in the dataset's order; None where nobody knows.

        Raises:
            StoreError: a shard is still missing, or the manifest cannot be written.
        """
        if self.missing:
            raise StoreError(f"{self.folder} still lacks the shard {self.missing[0].file}; run hjepa extract again")
        done = [self._done[part.file] for part in self._ranges]
        shards = tuple(shard for shard, _ in done)
        skipped = tuple(reason for _, reasons in done for reason in reasons)
        try:
            named = None if names is None else write_names(self.folder, names)
            write_manifest(self.folder, replace(self.manifest, shards=shards, skipped=skipped, names=named))
            if not filling(self.folder):
                for leftover in self.folder.glob(".*"):
                    leftover.unlink(missing_ok=True)  # Temporary files of a killed process.
                # Of a shorter run that is still reading; it removes them itself when it ends.
                for file in superseded(self.folder, shards):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.folder / MANIFEST}: {error.strerror}; the shards stay") from None
        return FeatureStore(self.folder, verify=False)

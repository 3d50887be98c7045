"""The shards of a store, as they are on disk: reading one tensor, and checking them against the manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from hjepa_eval.errors import StoreError
from hjepa_eval.features.fingerprint import parse_json
from hjepa_eval.features.manifest import Manifest, NamesFile, Shard, shard_span

# As safetensors writes them.
_FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def read_rows(path: Path, name: str, *, rows: int) -> npt.NDArray[Any]:
    """Return the first `rows` rows of the tensor `name` in a shard; no other tensor is read.

    Raises:
        StoreError: the shard cannot be read, or lacks the tensor; the message names it.
    """
    try:
        with safe_open(path, framework="numpy") as shard:
            return np.asarray(shard.get_tensor(name))[:rows]
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None


def read_into(out: npt.NDArray[np.float32], path: Path, name: str, index: npt.NDArray[np.int64]) -> None:
    """Fill `out` [M, D] with the rows at `index` [M], rising, of the float tensor `name` in a shard.

    By plain reads: pages of a mapped file count as memory of the process.

    Raises:
        StoreError: the shard cannot be read, or holds another tensor than expected; the message names it.
    """
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 2) > 1)
    stops = [*starts[1:], len(index)]
    try:
        with path.open("rb", buffering=0) as file:
            kind, offset, shape = find_tensor(file, name)
            if shape[1:] != out.shape[1:] or index[-1] >= shape[0]:
                raise ValueError(f"{name} has the shape {list(shape)}")
            for start, stop in zip(starts, stops, strict=True):
                part = out[start:stop] if kind == out.dtype else np.empty((stop - start, *shape[1:]), kind)
                file.seek(offset + int(index[start]) * shape[1] * kind.itemsize)
                fill(file, part)
                out[start:stop] = part
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(path, error) from None


def find_tensor(file: FileIO, name: str) -> tuple[np.dtype, int, tuple[int, ...]]:
    """Return type, first byte and shape of a float tensor, from the header: its length in 8 bytes, then JSON.

    Raises:
        ValueError, KeyError, TypeError: the header is damaged, or holds no such float tensor.
    """
    length = np.zeros(1, "<u8")
    fill(file, length)
    if length[0] > os.fstat(file.fileno()).st_size:
        raise ValueError("its header is damaged")
    header = np.empty(int(length[0]), np.uint8)
    fill(file, header)
    entry = parse_json(header.tobytes())[name]
    if entry["dtype"] not in _FLOATS:
        raise ValueError(f"{name} is {entry['dtype']}, expected {' or '.join(_FLOATS)}")
    return _FLOATS[entry["dtype"]], 8 + len(header) + entry["data_offsets"][0], tuple(entry["shape"])


def fill(file: FileIO, array: npt.NDArray[Any]) -> None:
    """Fill an array with the next bytes of a file.

    Raises:
        ValueError: the file ends before.
    """
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = file.readinto(left)
        if not count:
            raise ValueError("it ends too early")
        left = left[count:]


def unreadable(path: Path, error: Exception) -> StoreError:
    """Return the error for a shard that cannot be read."""
    return StoreError(f"{path} cannot be read: {error}; run hjepa extract again, it repairs what is damaged")


def superseded(folder: Path, shards: Sequence[Shard]) -> list[Path]:
    """Return files of a store's folder whose images are all in one of `shards` of another name, as shorter runs leave.

    A file that holds more than any of the shards stays: a longer run is at work on it, or was, and will go on with it.
    """
    names = {shard.file for shard in shards}
    found = []
    for path in sorted(folder.glob("*-*.safetensors")):
        span = shard_span(path.name)
        if span is not None and path.name not in names:
            start, stop = span
            if any(shard.start <= start and stop <= shard.stop for shard in shards):
                found.append(path)
    return found


def shard_problems(folder: Path, manifest: Manifest, *, verify: bool) -> Iterator[str]:
    """Yield what is wrong with each file that a manifest names: its size, and with `verify` its sha256."""
    entries: list[Shard | NamesFile] = [*manifest.shards]
    if manifest.names is not None:
        entries.append(manifest.names)
    for entry in entries:
        path = folder / entry.file
        try:
            if not path.is_file():
                yield f"{path} is missing"
            elif path.stat().st_size != entry.bytes:
                yield f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}"
            elif verify and hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
                yield f"{path} is damaged: its sha256 does not match the manifest"
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror}"

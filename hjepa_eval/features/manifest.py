"""The manifest of a feature store: what it holds, which shards, which ranges of images, and a checksum over itself."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.errors import StoreError
from hjepa_eval.features.fingerprint import escape_surrogates, hash_json, parse_json, write_atomically

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
NAMES = "names.json.gz"


def shard_file(start: int, stop: int) -> str:
    """Return the name of the shard that holds images `start` to `stop` of a dataset's order."""
    return f"{start:08d}-{stop:08d}.safetensors"


def shard_span(file: str) -> tuple[int, int] | None:
    """Return the images that a shard of this name holds, as `start, stop`, or None when it is no shard's name."""
    found = re.fullmatch(r"(\d{8,18})-(\d{8,18})\.safetensors", file, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Shard:
    """One file of a store: images `start` to `stop` of the dataset's order, less those that were skipped."""

    file: str
    start: int
    stop: int
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class NamesFile:
    """The file of a store that says where its images come from: of every image asked for, those that were skipped too.

    It is no part of the key: what an image is called changes no number.
    """

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredLevel:
    """One level as stored: its place in the encoder, and the width of its features after the readout."""

    index: int
    name: str
    width: int
    grid: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class Manifest:
    """Everything that a reader needs to know about a store.

    Attributes:
        identity: what the features depend on; the key is its sha256.
        encoder: name of the encoder, for people.
        dataset: name of the dataset.
        split: `train` or `test`.
        readout: how tokens became a vector.
        levels: finest first.
        class_names: name of each label.
        dataset_size: images in the whole split.
        num_images: images asked for; a prefix of the split when smaller than `dataset_size`.
        skipped: images that could not be read, and why.
        notes: what a reader of the results must know about the dataset.
        shards: in order; together they cover `num_images`.
        names: where the images come from; None in stores of before, which do not say.
    """

    identity: dict[str, Any]
    encoder: str
    dataset: str
    split: str
    readout: str
    levels: tuple[StoredLevel, ...]
    class_names: tuple[str, ...]
    dataset_size: int
    num_images: int
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = field(default=())
    names: NamesFile | None = None

    @property
    def key(self) -> str:
        """The sha256 of the identity: equal keys mean equal features."""
        return hash_json(self.identity)

    @property
    def storage(self) -> str:
        """The dtype of stored features, `float32` or `float16`."""
        return str(self.identity.get("storage", "float32"))

    @property
    def rows(self) -> int:
        """Number of samples stored."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically; its presence says that the store is complete.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {"format_version": FORMAT_VERSION, "key": manifest.key, **asdict(manifest)}
    content["checksum"] = hash_json(content)
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(folder / MANIFEST, escape_surrogates(text).encode())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the store in `folder`.

    Raises:
        StoreError: it is absent, not JSON, of another version, or was edited.
    """
    path = folder / MANIFEST
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no complete store (no {MANIFEST}); run hjepa extract again") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}; run hjepa extract again to repair it") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else type(content).__name__
        raise StoreError(f"{path}: format_version is {found!r}, this program reads {FORMAT_VERSION}; extract again")
    checksum = content.pop("checksum", None)
    try:
        whole = checksum == hash_json(content)
        manifest = _parse(content) if whole else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} does not fit its format: {error!r}; run hjepa extract again") from None
    if manifest is None:
        raise StoreError(f"{path} was edited or damaged: its checksum does not match; run hjepa extract again")
    return manifest


def _parse(content: dict[str, Any]) -> Manifest:
    known = {item.name for item in fields(Manifest)}
    values = {name: value for name, value in content.items() if name in known}
    levels = tuple(StoredLevel(**{**level, "grid": tuple(level["grid"])}) for level in values.pop("levels"))
    shards = tuple(Shard(**shard) for shard in values.pop("shards"))
    for shard in shards:
        # A name is never taken as a path: `../x` would lead out of the store.
        if shard.file != shard_file(shard.start, shard.stop):
            raise ValueError(f"shard name {shard.file!r} is not {shard_file(shard.start, shard.stop)!r}")
    names = values.pop("names", None)
    if names is not None and names["file"] != NAMES:
        raise ValueError(f"the file of names is {names['file']!r}, expected {NAMES!r}")
    for name in ("class_names", "skipped", "notes"):
        values[name] = tuple(values[name])
    return Manifest(levels=levels, shards=shards, names=None if names is None else NamesFile(**names), **values)


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

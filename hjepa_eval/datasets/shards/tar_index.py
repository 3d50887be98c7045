"""What a tar shard holds: where each image lies in it, with its label, read once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.shards.tar_members import Member, read_members
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.claims import alone
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.memo import file_state, memo_file, recall, remember

IMAGES = ("jpg", "jpeg", "png", "gif", "webp")
# The beginnings of compressed files, and what unpacks them.
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_VERSION = 1
_NUMBERS = ("offsets", "sizes", "labels")
_MOST_LABEL_BYTES = 1 << 20


@dataclass(frozen=True)
class TarIndex:
    """The samples of a shard, in its order.

    Attributes:
        path: the shard.
        state: of the file when it was read (`file_state`).
        sha256: of its content.
        names: `<key>.<extension>` of the images.
        offsets: of their first bytes in the file, [N].
        sizes: in bytes, [N].
        labels: class numbers, [N].
    """

    path: Path
    state: list[int]
    sha256: str
    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]


def index_shard(path: Path, *, memo: Path | None) -> TarIndex:
    """Return the index of a shard; a shard that has not changed since is not read again.

    Args:
        path: a tar archive, not compressed.
        memo: folder for remembered indices; None reads every time.

    Raises:
        DataError: it cannot be read, is compressed, truncated or no tar archive, holds a name or a kind of member that
            is not safe, or a sample without exactly one image and a label; the message names shard and member.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"the shard {path} is no regular file")
        # Unbuffered: headers are read here and there.
        with path.open("rb", buffering=0) as file:
            state = file_state(os.fstat(file.fileno()))
            signature = hash_json(["tar index", _VERSION, str(path.resolve()), state])
            known = _restored(path, state, recall(memo, signature))
            if known is not None:
                return known
            with nullcontext() if memo is None else alone(memo_file(memo, signature)):
                # Another process may have read it while this one waited.
                known = _restored(path, state, recall(memo, signature))
                return known or _read(file, path, state, memo, signature)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from None


def _restored(path: Path, state: list[int], answer: dict[str, Any] | None) -> TarIndex | None:
    if answer is None:
        return None
    try:
        numbers = {name: np.array(answer[name], dtype=np.int64) for name in _NUMBERS}
        return TarIndex(path, state, answer["sha256"], answer["names"], **numbers)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _read(file: BinaryIO, path: Path, state: list[int], memo: Path | None, signature: str) -> TarIndex:
    """Return the index of an open shard, and remember it."""
    index = TarIndex(path, state, _digest(file, path), *_list_images(file, path))
    if file_state(os.fstat(file.fileno())) != state:
        raise DataError(f"the shard {path} changed while it was read; try again when it is complete")
    numbers = {name: getattr(index, name).tolist() for name in _NUMBERS}
    remember(memo, signature, {"sha256": index.sha256, "names": index.names, **numbers}, root=path)
    return index


def _digest(file: BinaryIO, path: Path) -> str:
    """Return the sha256 of the file; refuse one that is compressed before reading it all."""
    beginning = file.read(8)
    for mark, program in _COMPRESSED.items():
        if beginning.startswith(mark):
            raise DataError(f"the shard {path} is compressed; images are read at random, so unpack it with {program}")
    digest = hashlib.sha256(beginning)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _list_images(
    file: BinaryIO, path: Path
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return names, and int64 [N] offsets, sizes and labels of the images."""
    samples = _group(read_members(file, path), path)
    if not samples:
        raise DataError(f"the shard {path} holds no samples; expected members KEY.jpg and KEY.cls")
    names, numbers = [], np.empty((len(_NUMBERS), len(samples)), dtype=np.int64)
    for place, (key, parts) in enumerate(samples.items()):
        found = [extension for extension in parts if extension in IMAGES]
        if len(found) != 1:
            what = f"several images ({', '.join(found)})" if found else f"no image (it has {first_few(parts)})"
            raise DataError(f"{path}: sample {key} has {what}; expected one of {', '.join(IMAGES)}")
        image = parts[found[0]]
        names.append(image.name)
        numbers[:, place] = image.offset, image.size, _label(file, path, key, parts)
    return names, *numbers


def _group(members: list[Member], path: Path) -> dict[str, dict[str, Member]]:
    """Return the members of each sample by extension; as WebDataset does, split names at the first dot of the file.

    Names without extension and hidden files belong to no sample.
    """
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        match = _NAME.fullmatch(member.name)
        if match is not None:
            key, extension = match[1], match[2].lower()
            parts = samples.setdefault(key, {})
            if extension in parts:
                raise DataError(f"{path}: two members {key}.{extension}; keys must differ, so pack it again")
            parts[extension] = member
    return samples


def _label(file: BinaryIO, path: Path, key: str, parts: Mapping[str, Member]) -> int:
    member = parts.get("cls") or parts.get("json")
    if member is None:
        raise DataError(f"{path}: sample {key} has no label; expected a member {key}.cls or {key}.json")
    file.seek(member.offset)
    content = file.read(min(member.size, _MOST_LABEL_BYTES))
    if "cls" in parts:
        text = content.strip()
        if not re.fullmatch(rb"[0-9]{1,9}", text):
            found = text[:20].decode("ascii", "replace")
            raise DataError(f"{path}: the label in {member.name} must be a class number from 0, found {found!r}")
        return int(text)
    try:
        record = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: {member.name} is no JSON: {error}") from None
    label = record.get("label") if isinstance(record, dict) else None
    if type(label) is not int or not 0 <= label < 10**9:
        raise DataError(f'{path}: {member.name} must hold {{"label": a class number from 0}}, found label {label!r}')
    return label

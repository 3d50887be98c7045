"""What a tar shard holds: where each image lies in it, with its label, read once and remembered."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.shards.tar_members import Member, read_members
from hjepa_eval.errors import ChangedError, DataError, first_few, shown
from hjepa_eval.features.fingerprint import MAX_FILE_BYTES, hash_json, parse_json
from hjepa_eval.features.memo import content_digest, file_state, pack_digests, remembered, unpack_digests

IMAGES = ("jpg", "jpeg", "png", "gif", "webp")
# The beginnings of compressed files, and what unpacks them.
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_VERSION = 2
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
        digests: `content_digest` of the images' bytes, [N].
        unlike: keys of samples whose `.json` names another label than their `.cls`, which is taken.
    """

    path: Path
    state: list[int]
    sha256: str
    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    digests: NDArray[np.uint64]
    unlike: list[str]


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
            answer = remembered(memo, signature, lambda: _read(file, path, state), root=path)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from None
    numbers = {name: np.array(answer[name], dtype=np.int64) for name in _NUMBERS}
    return TarIndex(
        path,
        state,
        answer["sha256"],
        answer["names"],
        **numbers,
        digests=unpack_digests(answer["digests"]),
        unlike=answer["unlike"],
    )


def _read(file: BinaryIO, path: Path, state: list[int]) -> dict[str, Any]:
    """Return what `TarIndex` says of an open shard, as JSON values."""
    _refuse_compressed(file, path)
    listed = _list_images(file, path)
    sha256, digests = _hash(file, listed.numbers)
    if file_state(os.fstat(file.fileno())) != state:
        raise ChangedError(f"the shard {path} changed while it was read; try again when it is complete")
    numbers = dict(zip(_NUMBERS, listed.numbers.tolist(), strict=True))
    return {
        "sha256": sha256,
        "names": listed.names,
        "digests": pack_digests(digests),
        "unlike": listed.unlike,
        **numbers,
    }


def _refuse_compressed(file: BinaryIO, path: Path) -> None:
    beginning = file.read(8)
    for mark, program in _COMPRESSED.items():
        if beginning.startswith(mark):
            raise DataError(f"the shard {path} is compressed; images are read at random, so unpack it with {program}")


def _hash(file: BinaryIO, numbers: NDArray[np.int64]) -> tuple[str, NDArray[np.uint64]]:
    """Return the sha256 of a file, and `content_digest` [N] of its parts, in one reading.

    Args:
        file: open for reading.
        numbers: int64 [3, N]; offsets and sizes of the parts, which do not overlap, are the first two rows.
    """
    total, digests = hashlib.sha256(), np.zeros(numbers.shape[1], np.uint64)
    file.seek(0)
    at = 0
    for place in np.argsort(numbers[0], kind="stable").tolist():
        offset, size = int(numbers[0, place]), int(numbers[1, place])
        while at < offset and (block := file.read(min(1 << 20, offset - at))):
            total.update(block)
            at += len(block)
        part = _exactly(file, size)
        total.update(part)
        digests[place] = content_digest(part)
        at += len(part)
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest(), digests


def _exactly(file: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes; fewer where the file ends before."""
    part = file.read(size)
    while len(part) < size and (more := file.read(size - len(part))):
        part += more
    return part


class _Images(NamedTuple):
    """What a shard holds: image names, int64 [3, N] of `_NUMBERS`, and keys whose two labels differ."""

    names: list[str]
    numbers: NDArray[np.int64]
    unlike: list[str]


def _list_images(file: BinaryIO, path: Path) -> _Images:
    """Return where the images lie, with their labels."""
    samples = _group(read_members(file, path), path)
    if not samples:
        raise DataError(f"the shard {path} holds no samples; expected members KEY.jpg and KEY.cls")
    names, unlike, numbers = [], [], np.empty((len(_NUMBERS), len(samples)), dtype=np.int64)
    for place, (key, parts) in enumerate(samples.items()):
        found = [extension for extension in parts if extension in IMAGES]
        if len(found) != 1:
            what = f"several images ({', '.join(found)})" if found else f"no image (it has {first_few(parts)})"
            raise DataError(f"{path}: sample {key} has {what}; expected one of {', '.join(IMAGES)}")
        image = parts[found[0]]
        if image.size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: {image.name} has {image.size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed for an image"
            )
        label, other = _label(file, path, key, parts)
        names.append(image.name)
        unlike += [key] if other is not None and other != label else []
        numbers[:, place] = image.offset, image.size, label
    return _Images(names, numbers, unlike)


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


def _label(file: BinaryIO, path: Path, key: str, parts: Mapping[str, Member]) -> tuple[int, int | None]:
    """Return the label of a sample, and the one in its `.json` if there is a `.cls` too."""
    if "cls" in parts:
        text = _beginning(file, parts["cls"]).strip()
        if not re.fullmatch(rb"[0-9]{1,9}", text):
            beginning = text[:20].decode("ascii", "replace")
            name = parts["cls"].name
            raise DataError(f"{path}: the label in {name} must be a class number from 0, found {beginning!r}")
        return int(text), _other_label(file, parts["json"]) if "json" in parts else None
    if "json" not in parts:
        raise DataError(f"{path}: sample {key} has no label; expected a member {key}.cls or {key}.json")
    name = parts["json"].name
    try:
        label = _json_label(file, parts["json"])
    except ValueError as error:
        raise DataError(f"{path}: {name} is no JSON: {error}") from None
    if not _is_label(label):
        raise DataError(f'{path}: {name} must hold {{"label": a class number from 0}}, found label {shown(label)}')
    return int(label), None


def _other_label(file: BinaryIO, member: Member) -> int | None:
    """Return the label in a `.json` beside a `.cls`, or None where it holds none."""
    try:
        label = _json_label(file, member)
    except ValueError:
        return None
    return int(label) if _is_label(label) else None


def _json_label(file: BinaryIO, member: Member) -> Any:
    record = parse_json(_beginning(file, member))
    return record.get("label") if isinstance(record, dict) else None


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**9


def _beginning(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(min(member.size, _MOST_LABEL_BYTES))

"""How a shard lies on disk: safetensors whose features begin at page boundaries, so that they can be mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hjepa_eval.features.fingerprint import canonical_json

# The largest page of common machines (16 KiB on Apple's; 4 KiB on most others); one row of 4096 float32 values too.
ALIGNMENT = 16384

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


def read_about(content: bytes) -> dict[str, Any] | None:
    """Return what the header of a shard's bytes says besides, or None when any of them is not as it was written."""
    view = memoryview(content)
    digest = hashlib.sha256(view[: _CHECKSUM.start])
    digest.update(_BLANK.encode())
    digest.update(view[_CHECKSUM.stop :])
    if not content.startswith(_OPENING, 8) or content[_CHECKSUM] != digest.hexdigest().encode():
        return None
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["hjepa"])
    except (ValueError, KeyError, TypeError):
        return None  # Whole, but no shard of ours.
    return about if isinstance(about, dict) else None


def _entry(kind: str, shape: tuple[int, ...], start: int, length: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + length]}

"""How a shard lies on disk: safetensors whose features begin at page boundaries, so that they can be mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from hjepa_eval.features.fingerprint import canonical_json

# The largest page of common machines (16 KiB on Apple's; 4 KiB on most others); one row of 4096 float32 values too.
ALIGNMENT = 16384

_NAMES = {"<i8": "I64", "<f4": "F32", "<f2": "F16"}


def pack_shard(tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """Return a shard's bytes, the same for the same content: integers first, then the levels, each at a page boundary.

    The header is padded with spaces, as the format allows. The format allows no holes between tensors, so a tensor of
    zero bytes named `padding.<level>` fills each; a full shard of float32 needs none.

    Args:
        tensors: int64, float32 or float16.
        about: what the header says besides, as JSON under `hjepa`; `payload` is added, the sha256 after the header.

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
    payload = hashlib.sha256()
    for part in parts:
        payload.update(part.data)
    metadata = {"hjepa": canonical_json({**about, "payload": payload.hexdigest()})}
    header = canonical_json({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    return b"".join([len(header).to_bytes(8, "little"), header, *(part.data for part in parts)])


def read_about(content: bytes) -> dict[str, Any] | None:
    """Return what the header of a shard's bytes says besides, or None when they are not whole."""
    try:
        load(content)
    except SafetensorError:
        return None
    start = 8 + int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8:start]).get("__metadata__", {}).get("hjepa", "{}"))
    return about if about.get("payload") == hashlib.sha256(memoryview(content)[start:]).hexdigest() else None


def _entry(kind: str, shape: tuple[int, ...], start: int, length: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + length]}

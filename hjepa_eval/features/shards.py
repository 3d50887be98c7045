"""The shards of a store, as they are on disk: reading one tensor, and checking them against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from hjepa_eval.errors import StoreError
from hjepa_eval.features.manifest import Manifest


def read_rows(path: Path, name: str, *, rows: int) -> npt.NDArray[Any]:
    """Return the first `rows` rows of the tensor `name` in a shard; no other tensor is read.

    Raises:
        StoreError: the shard cannot be read, or lacks the tensor; the message names it.
    """
    try:
        with safe_open(path, framework="numpy") as shard:
            return np.asarray(shard.get_tensor(name))[:rows]
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{path} cannot be read: {error}; run hjepa extract again, it repairs what is damaged"
        ) from None


def shard_problems(folder: Path, manifest: Manifest, *, verify: bool) -> Iterator[str]:
    """Yield what is wrong with each shard that a manifest names: its size, and with `verify` its sha256."""
    for shard in manifest.shards:
        path = folder / shard.file
        try:
            if not path.is_file():
                yield f"{path} is missing"
            elif path.stat().st_size != shard.bytes:
                yield f"{path} has {path.stat().st_size} bytes instead of {shard.bytes}"
            elif verify and hashlib.sha256(path.read_bytes()).hexdigest() != shard.sha256:
                yield f"{path} is damaged: its sha256 does not match the manifest"
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror}"

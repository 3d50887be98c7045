"""Features as one array without a copy: the shards of a store mapped side by side into memory."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from hjepa_eval.features.names import read_names
from hjepa_eval.features.shards import fill, find_tensor, unreadable
from hjepa_eval.features.store import FeatureStore

if TYPE_CHECKING:
    from torch import Tensor

# Not in Python's mmap before 3.13; where it is unknown, nothing is lost but room for more than the machine's memory.
_NORESERVE = {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0)
_FIXED = 0x10
_CAN_JOIN = sys.platform in ("linux", "darwin") and ctypes.sizeof(ctypes.c_void_p) == 8


@dataclass(frozen=True)
class _Piece:
    """The rows of a level in one shard: where they begin in the file and in the joined array, in bytes."""

    path: Path
    kind: np.dtype[Any]
    offset: int
    place: int
    size: int


@overload
def read_features(
    store: FeatureStore | Path | str, level: int, *, as_torch: Literal[False] = ...
) -> npt.NDArray[Any]: ...


@overload
def read_features(store: FeatureStore | Path | str, level: int, *, as_torch: Literal[True]) -> Tensor: ...


def read_features(store: FeatureStore | Path | str, level: int, *, as_torch: bool = False) -> npt.NDArray[Any] | Tensor:
    """Return the features of a level, `[N, D]` as stored (float32 or float16), mapped from the shards without a copy.

    The operating system reads a page when it is first looked at and drops it when memory is short, so an array may be
    larger than memory. It lives on its own: the store object may go, and on Linux and macOS the folder too.
    A store is opened by the sizes of its shards; `hjepa cache verify` checks every byte.

    What does not begin at a page boundary is copied into memory instead, shard by shard: shards of earlier versions,
    and all shards behind an image that was skipped. Where shards cannot be mapped side by side (Windows, file systems
    without mmap) all of it is copied, unless the store has one shard only.

    Args:
        store: a store, or its folder.
        level: index of the level, 0 is the finest.
        as_torch: return a torch tensor of the same memory. Writing into it changes that tensor, never the store;
            an array refuses to be written.

    Raises:
        StoreError: the folder holds no complete store, or a shard does not hold what the manifest says.
        UnknownNameError: there is no such level.
    """
    opened = _open(store)
    width = opened.level(level).width
    pieces = _locate(opened, level, width)
    if not pieces:
        array = np.empty((0, width), np.dtype(opened.manifest.storage))
    elif len(pieces) == 1:
        array = _map_one(pieces[0], writable=as_torch)
    elif _CAN_JOIN and len({piece.kind for piece in pieces}) == 1:
        array = _join(pieces, writable=as_torch)
    else:
        array = _copy(pieces)
    array = array.reshape(-1, width)
    if as_torch:
        import torch

        return torch.from_numpy(array)
    array.flags.writeable = False
    return array


def read_labels(store: FeatureStore | Path | str) -> npt.NDArray[np.int64]:
    """Return the labels of a store, int64 `[N]`, as a copy.

    Raises:
        StoreError: the folder holds no complete store, or a shard cannot be read.
    """
    return _open(store).labels()


def read_index(store: FeatureStore | Path | str) -> npt.NDArray[np.int64]:
    """Return each sample's place in the dataset's order, int64 `[N]`, rising, as a copy.

    Raises:
        StoreError: the folder holds no complete store, or a shard cannot be read.
    """
    return _open(store).index()


def _open(store: FeatureStore | Path | str) -> FeatureStore:
    return store if isinstance(store, FeatureStore) else FeatureStore(Path(store), verify=False)


def _locate(store: FeatureStore, level: int, width: int) -> list[_Piece]:
    """Return where the rows of a level lie, checked: to look at a page behind a file's end would kill the process.

    Raises:
        StoreError: a shard cannot be read or does not hold what the manifest says.
    """
    pieces: list[_Piece] = []
    place = 0
    for shard in store.manifest.shards:
        path = store.folder / shard.file
        try:
            with path.open("rb", buffering=0) as file:
                kind, offset, shape = find_tensor(file, f"level{level}")
                size = shard.rows * width * kind.itemsize
                if shape != (shard.rows, width):
                    raise ValueError(f"level{level} has the shape {list(shape)}, expected {[shard.rows, width]}")
                if offset + size > path.stat().st_size:
                    raise ValueError("it ends too early")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(path, error) from None
        if size:
            pieces.append(_Piece(path, kind, offset, place, size))
        place += size
    return pieces


def _map_one(piece: _Piece, *, writable: bool) -> npt.NDArray[Any]:
    try:
        mode: Literal["c", "r"] = "c" if writable else "r"
        count = piece.size // piece.kind.itemsize
        return np.asarray(np.memmap(piece.path, piece.kind, mode=mode, offset=piece.offset, shape=(count,)))
    except OSError:
        return _copy([piece])


def _copy(pieces: Sequence[_Piece]) -> npt.NDArray[Any]:
    """Return all pieces in memory; float32 where their types differ."""
    kind = np.result_type(*(piece.kind for piece in pieces))
    parts = []
    for piece in pieces:
        part = np.empty(piece.size // piece.kind.itemsize, piece.kind)
        _read(piece, 0, part.view(np.uint8))
        parts.append(part)
    return np.concatenate(parts, dtype=kind)


def _read(piece: _Piece, start: int, out: npt.NDArray[np.uint8]) -> None:
    """Fill `out` with the bytes of a piece from `start` on."""
    try:
        with piece.path.open("rb", buffering=0) as file:
            file.seek(piece.offset + start)
            fill(file, out)
    except (OSError, ValueError) as error:
        raise unreadable(piece.path, error) from None


def _join(pieces: Sequence[_Piece], *, writable: bool) -> npt.NDArray[Any]:
    """Return all pieces side by side in one range of addresses; whole pages come from the files.

    The range is Python's own anonymous mapping. The array holds it, and when the array goes, Python unmaps the whole
    range and with it the files' pages that were put over it.
    """
    size = pieces[-1].place + pieces[-1].size
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON | _NORESERVE, prot=protection)
    array = np.frombuffer(area, pieces[0].kind)
    address = array.ctypes.data
    try:
        for piece in pieces:
            _place(piece, address, protection, last=piece is pieces[-1])
    except OSError:
        return _copy(pieces)
    return array


def _place(piece: _Piece, address: int, protection: int, *, last: bool) -> None:
    """Map the whole pages of a piece over the range at `address`, and copy the rest of it."""
    page = mmap.PAGESIZE
    start, stop = piece.place, piece.place + piece.size
    first = -(-start // page) * page
    # What follows the last piece in its last page is never looked at.
    end = -(-stop // page) * page if last else stop // page * page
    if (piece.offset - piece.place) % page or first >= end:
        first = end = stop
    else:
        with piece.path.open("rb") as file:
            _map(address + first, end - first, protection, file.fileno(), piece.offset + first - start)
    for copied, until in ((start, min(first, stop)), (min(end, stop), stop)):
        if copied < until:
            bottom = copied // page * page
            _check(_c().mprotect(address + bottom, until - bottom, mmap.PROT_READ | mmap.PROT_WRITE) == 0)
            memory = (ctypes.c_uint8 * (until - copied)).from_address(address + copied)
            _read(piece, copied - start, np.ctypeslib.as_array(memory))


def _map(address: int, size: int, protection: int, handle: int, offset: int) -> None:
    flags = mmap.MAP_PRIVATE | _FIXED | _NORESERVE
    _check(_c().mmap(address, size, protection, flags, handle, offset) == address)


def _check(fine: bool) -> None:
    if not fine:
        raise OSError(ctypes.get_errno(), "mmap failed")


def _c() -> ctypes.CDLL:
    """Return the C library: Python's mmap cannot choose an address."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


@dataclass(frozen=True)
class StoreContents:
    """A store of N images.

    Attributes:
        encoder: name of the encoder.
        dataset: name of the dataset.
        split: `train` or `test`.
        levels: number of the level -> [N, D], float32 or float16 as stored, mapped from the shards.
        labels: int64 [N].
        index: int64 [N], places in the dataset's order, rising.
        class_names: of each label.
        names: where each image comes from, such as `test/cat/1.png`; None in a store of before.
    """

    encoder: str
    dataset: str
    split: str
    levels: dict[int, NDArray[Any]] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...]
    names: list[str] | None = field(repr=False)


def read_store(store: FeatureStore | Path | str) -> StoreContents:
    """Return all that a store holds; features are mapped, so only what is touched is read.

    Args:
        store: a store, as `extract(...).splits["train"].store`, or its folder.

    Raises:
        StoreError: the folder holds no complete store, or a file of it is not what the manifest says.
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(Path(store), verify=False)
    manifest = opened.manifest
    return StoreContents(
        encoder=manifest.encoder,
        dataset=manifest.dataset,
        split=manifest.split,
        levels={level.index: read_features(opened, level.index) for level in manifest.levels},
        labels=opened.labels(),
        index=opened.index(),
        class_names=manifest.class_names,
        names=read_names(opened),
    )

"""Banks: rows of features that are read block by block, so that they need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

# Float32 numbers in one block: 128 MiB, large enough that merging the blocks' neighbours costs nothing.
_BLOCK_ELEMENTS = 1 << 25


class Bank(Protocol):
    """Rows of features in a fixed order, in memory or not; `features.stream.StoredFeatures` is one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows N and of dimensions D."""

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in order, float32 [`rows`, D] at a time; the last block may be shorter."""

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows at `index` [M], each in [0, N), in any order, as float32 [M, D]."""


class ArrayBank:
    """An array, or a memory map, as a bank; other float types become float32 block by block."""

    def __init__(self, array: NDArray) -> None:
        """Take `array` [N, D]; nothing is copied."""
        self._array = array

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows N and of dimensions D."""
        rows, width = self._array.shape
        return rows, width

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in order, float32 [`rows`, D] at a time; contiguous float32 is not copied."""
        for start in range(0, len(self._array), rows):
            yield np.ascontiguousarray(self._array[start : start + rows], dtype=np.float32)

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows at `index` [M] as float32 [M, D]."""
        return np.ascontiguousarray(self._array[index], dtype=np.float32)


def as_bank(features: NDArray | Bank) -> Bank:
    """Return `features` as a bank."""
    return ArrayBank(features) if isinstance(features, np.ndarray) else features


def rows_per_block(bank: Bank, *, elements: int = _BLOCK_ELEMENTS) -> int:
    """Return how many rows of `bank` make a block of `elements` numbers, at least one."""
    return max(1, elements // bank.shape[1])


def numbered_blocks(bank: Bank, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the blocks of `bank` as tensors that share their memory, each with the number of its first row."""
    start = 0
    for block in bank.blocks(rows):
        # torch has no read-only tensors and warns of them; a block of a read-only memory map is copied.
        yield start, torch.from_numpy(block if block.flags.writeable else block.copy())
        start += len(block)

"""Banks: rows of features that are read block by block, and their similarity, exact in float64, with ties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

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


Metric = Literal["cosine", "euclidean"]

# Above the rounding of float32 products of unit vectors (3e-7) and of distances of order 1 (1e-6), below any difference
# that a vote could feel.
NEAR = {"cosine": 1e-6, "euclidean": 4e-6}
# Similarities equal to this many binary places are a tie; float64 sums differ by less, whatever their order.
PLACES = 36
_CENTRE_ROWS = 4096
_PART_ROWS = 4096
_NORM_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Space:
    """Moves rows to where a dot product (cosine) or a distance of numbers of order 1 (Euclidean) compares them."""

    metric: Metric
    centre: torch.Tensor
    scale: float

    def place(self, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return `rows` [N, D] as unit vectors, or centred and scaled, computed in float64 where float32 would err."""
        if self.metric == "euclidean":
            moved = torch.empty(rows.shape, dtype=dtype)
            for part, out in zip(torch.split(rows, _PART_ROWS), torch.split(moved, _PART_ROWS), strict=True):
                out.copy_(torch.sub(part, self.centre).div_(self.scale))
            return moved
        if dtype == torch.float64:
            return _unit(rows)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        placed = torch.div(rows, norm)
        # Squares of 1e20 or 1e-25 leave the range of float32.
        beyond = torch.nonzero(~((norm > 1e-12) & (norm < 1e18)))[:, 0]
        if len(beyond):
            placed[beyond] = _unit(rows[beyond]).to(dtype)
        return placed

    def exact(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [M] of `rows` [M, D] with `others` [M, D], on the grid that defines a tie."""
        rows, others = self.place(rows, torch.float64), self.place(others, torch.float64)
        if self.metric == "euclidean":
            return _on_grid(rows.sub_(others).square_().sum(dim=1).neg_())
        return _on_grid(rows.mul_(others).sum(dim=1))

    def exact_matrix(self, placed: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [Q, N] of all pairs of rows, both placed in float64 already."""
        if self.metric == "cosine":
            return _on_grid(placed @ others.T)
        squares = placed.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
        return _on_grid((2 * placed @ others.T).sub_(squares).clamp_max_(0))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Return float64 unit vectors; zero vectors stay zero."""
    exact = rows.to(torch.float64)
    norm = exact.square().sum(dim=1, keepdim=True).sqrt()
    return exact / torch.where(norm > 0, norm, 1.0)


def _on_grid(similarity: torch.Tensor) -> torch.Tensor:
    return torch.round(similarity * 2.0**PLACES) / 2.0**PLACES


def make_space(bank: Bank, queries: Bank, metric: Metric) -> Space:
    """Return the space of `metric`; for distances, centring near the bank's mean keeps their float32 rounding small.

    The centre is the mean of rows spread over the bank and the scale a power of two, so that neither depends on how
    the bank is cut into blocks.
    """
    if metric == "cosine":
        return Space(metric, torch.zeros(1), 1.0)
    spread = np.linspace(0, bank.shape[0] - 1, min(bank.shape[0], _CENTRE_ROWS)).astype(np.int64)
    centre = torch.from_numpy(bank.rows(spread)).mean(dim=0, dtype=torch.float64)
    largest = 0.0
    for rows in (bank,) if queries is bank else (bank, queries):
        for _, block in numbered_blocks(rows, rows_per_block(rows, elements=_NORM_ELEMENTS)):
            norms = torch.linalg.vector_norm(torch.sub(block, centre), dim=1)
            largest = max(largest, float(norms.max()))
    return Space(metric, centre, 2.0 ** math.frexp(largest)[1])

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


class PartOfBank:
    """Some rows of a bank, in the order of their numbers, as a bank."""

    def __init__(self, bank: Bank, index: NDArray[np.int64]) -> None:
        """Take the rows of `bank` at `index` [M]; nothing is read."""
        self._bank, self._index = bank, index

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows M and of dimensions D."""
        return len(self._index), self._bank.shape[1]

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in order, float32 [`rows`, D] at a time."""
        for start in range(0, len(self._index), rows):
            yield self._bank.rows(self._index[start : start + rows])

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows at `index` [K], each in [0, M)."""
        return self._bank.rows(self._index[index])


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

# Above the rounding of float32 products of unit vectors (3e-7).
_NEAR_COSINE = 1e-6
# Above the rounding of float32 squared distances, as a share of the squared norms that they are formed from (1e-6).
_NEAR_EUCLIDEAN = 4e-6
# Distances that agree to so many binary places (of unit vectors) or first digits (of others) are a tie:
# float64 sums differ by less, whatever their order.
_PLACES = 37
_DROPPED_BITS = 15
_SAMPLE_ROWS = 1001
_PART_ROWS = 4096
# Squares of larger placed numbers leave the range of float32; such rows are far from all others either way.
_FARTHEST = 1e15


@dataclass(frozen=True)
class Space:
    """Moves rows to where a float32 dot product (cosine) or distance (Euclidean) compares them, and compares exactly.

    Attributes:
        metric: `cosine` or `euclidean`.
        centre: float64 [D], amid the bank.
        scale: a power of two, the size of the bank's rows about the centre.
    """

    metric: Metric
    centre: torch.Tensor
    scale: float

    def place(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `rows` [N, D] as float32 unit vectors, or centred and scaled, by float64 where float32 would err."""
        if self.metric == "euclidean":
            moved = torch.empty(rows.shape)
            for part, out in zip(torch.split(rows, _PART_ROWS), torch.split(moved, _PART_ROWS), strict=True):
                out.copy_(torch.sub(part, self.centre).div_(self.scale).clamp_(-_FARTHEST, _FARTHEST))
            return moved
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        placed = torch.div(rows, norm)
        # Squares of 1e20 or 1e-25 leave the range of float32.
        beyond = torch.nonzero(~((norm > 1e-12) & (norm < 1e18)))[:, 0]
        if len(beyond):
            placed[beyond] = unit_rows(rows[beyond]).to(torch.float32)
        return placed

    def rounding(self, similarity: torch.Tensor, placed: torch.Tensor) -> torch.Tensor:
        """Return how far float32 `similarity` [Q, K] of `placed` queries [Q, D] with any rows may be from the truth."""
        if self.metric == "cosine":
            return torch.full((1, 1), _NEAR_COSINE)
        # A row's own square is at most twice the query's and twice that of their distance.
        return _NEAR_EUCLIDEAN * (placed.square().sum(dim=1, keepdim=True).clamp_min(1) - similarity)

    def exact(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 closeness [M] of `rows` [M, D] with `others` [M, D], both as given.

        It is minus the squared distance of placed rows, halved for unit vectors, where it is the cosine less 1: formed
        from differences, so that features with a large common part are told apart, on the grid that defines a tie.
        """
        if self.metric == "euclidean":
            return self._closeness(rows.to(torch.float64).sub_(others).square_().sum(dim=1).sqrt_())
        unit, other = unit_rows(rows), unit_rows(others)
        distance = (unit - other).square_().sum(dim=1).sqrt_()
        distance[~unit.any(dim=1) | ~other.any(dim=1)] = math.sqrt(2)
        return self._closeness(distance)

    def exact_matrix(self, queries: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 closeness [Q, N] of all pairs of rows, as `exact` has it."""
        first, second = queries.to(torch.float64), others.to(torch.float64)
        if self.metric == "cosine":
            first, second = unit_rows(first), unit_rows(second)
        distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        if self.metric == "cosine":
            distance[~first.any(dim=1)] = math.sqrt(2)
            distance[:, ~second.any(dim=1)] = math.sqrt(2)
        return self._closeness(distance)

    def _closeness(self, distance: torch.Tensor) -> torch.Tensor:
        """Return minus the square of float64 `distance` on its grid, of placed rows."""
        if self.metric == "cosine":
            return distance.mul_(2.0**_PLACES).round_().div_(2.0**_PLACES).square_().mul_(-0.5)
        # The last bits of a float's pattern are the last digits of the number.
        bits = distance.div_(self.scale).view(torch.int64)
        bits.add_(1 << (_DROPPED_BITS - 1)).bitwise_and_(-(1 << _DROPPED_BITS))
        return distance.square_().neg_()

    def similarity(self, closeness: torch.Tensor) -> torch.Tensor:
        """Return the cosine, or minus the squared distance of rows as given, from the closeness."""
        if self.metric == "euclidean":
            return closeness * self.scale**2
        # The grid of distances has no 1 / sqrt(2): an angle of 90 degrees has the cosine 0 all the same.
        return torch.round((closeness + 1) * 2.0**36) / 2.0**36


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return float64 unit vectors of `rows` [N, D]; zero vectors stay zero."""
    exact = rows.to(torch.float64)
    norm = exact.square().sum(dim=1, keepdim=True).sqrt()
    return exact / torch.where(norm > 0, norm, 1.0)


def middle_of(rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return a point float64 [D] amid `rows` [N, D] and their size about it, a power of two, which no single row sets.

    They are the medians of the columns and of the norms less the former: a row a million times farther than the others
    would move means and largest norms so far that float32 numbers tell the others no more apart.
    """
    exact = rows.to(torch.float64)
    centre = exact.median(dim=0).values
    norms = torch.linalg.vector_norm(exact - centre, dim=1)
    norms = norms[norms > 0]
    return centre, 2.0 ** math.frexp(float(norms.median()))[1] if len(norms) else 1.0


def spread_rows(count: int, most: int = _SAMPLE_ROWS) -> NDArray[np.int64]:
    """Return at most `most` row numbers, evenly over `count` rows."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def make_space(bank: Bank, metric: Metric) -> Space:
    """Return the space of `metric`; for distances, centring amid the bank keeps their float32 rounding small.

    Centre and scale are those of rows spread over the bank, so that neither depends on how it is cut into blocks.
    """
    if metric == "cosine":
        return Space(metric, torch.zeros(1), 1.0)
    centre, scale = middle_of(torch.from_numpy(bank.rows(spread_rows(bank.shape[0]))))
    return Space(metric, centre, scale)

"""A level: what an encoder says of each of its outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One level of an encoder.

    Attributes:
        index: 0 is the finest.
        name: what the level reads, for people, such as `block 4, 1x1 cells`.
        dim: width `D` of each token.
        grid: cells as (rows, columns).
        prefix: tokens before the grid's cells, such as a class token and registers; `Encoder.name_prefix` says which.
    """

    index: int
    name: str
    dim: int
    grid: tuple[int, int]
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens `T` that the encoder returns for this level: prefix, then cells row by row."""
        return self.prefix + self.grid[0] * self.grid[1]

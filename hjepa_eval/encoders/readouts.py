"""Readouts: how the tokens of a level become one vector per image, and what an encoder says of each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa_eval.errors import EncoderError, unknown

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True)
class Readout:
    """A function from tokens `[B, T, D]` to features `[B, F]`, and the width `F` for a level."""

    read: Callable[[Tensor, Level], Tensor]
    width: Callable[[Level], int]
    description: str


def _cells(tokens: Tensor, level: Level) -> Tensor:
    return tokens[:, level.prefix :]


def _mean(tokens: Tensor, level: Level) -> Tensor:
    return _cells(tokens, level).mean(1)


def _max(tokens: Tensor, level: Level) -> Tensor:
    return _cells(tokens, level).amax(1)


def _cls(tokens: Tensor, level: Level) -> Tensor:
    check_readout("cls", [level])
    return tokens[:, 0]


def _quadrants(level: Level) -> tuple[int, int]:
    return min(2, level.grid[0]), min(2, level.grid[1])


def _grid(tokens: Tensor, level: Level) -> Tensor:
    import torch.nn.functional as F

    cells = _cells(tokens, level).transpose(1, 2)
    image = cells.reshape(*cells.shape[:2], *level.grid)
    return F.adaptive_avg_pool2d(image, _quadrants(level)).flatten(1)


def _tokens(tokens: Tensor, level: Level) -> Tensor:
    return _cells(tokens, level).flatten(1)


READOUTS: dict[str, Readout] = {
    "mean": Readout(_mean, lambda level: level.dim, "mean of the level's cells"),
    "max": Readout(_max, lambda level: level.dim, "maximum over the level's cells"),
    "cls": Readout(_cls, lambda level: level.dim, "class token"),
    "grid": Readout(
        _grid, lambda level: level.dim * _quadrants(level)[0] * _quadrants(level)[1], "means of the 2x2 quadrants"
    ),
    "tokens": Readout(_tokens, lambda level: level.dim * level.grid[0] * level.grid[1], "all cells, one after another"),
}


def check_readout(name: str, levels: Sequence[Level]) -> None:
    """Check that every level has what a readout reads.

    Raises:
        UnknownNameError: there is no such readout.
        EncoderError: it is `cls`, and a level has no class token.
    """
    get_readout(name)
    for level in levels if name == "cls" else ():
        if level.prefix == 0:
            raise EncoderError(f"level {level.index} ({level.name}) has no class token; use --readout mean")


def get_readout(name: str) -> Readout:
    """Return the readout of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in READOUTS:
        raise unknown("readout", name, READOUTS)
    return READOUTS[name]

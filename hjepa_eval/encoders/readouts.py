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
    """A function from tokens `[B, T, D]` to features `[B, F]`, and the width `F` for a level.

    Attributes:
        read: of one level.
        width: of one level.
        description: what it is.
        prefix: tokens before the cells that it needs.
        together: levels, this one and those before it, whose features stand side by side; as many as there are.
    """

    read: Callable[[Tensor, Level], Tensor]
    width: Callable[[Level], int]
    description: str
    prefix: int = 0
    together: int = 1


def _cells(tokens: Tensor, level: Level) -> Tensor:
    return tokens[:, level.prefix :]


def _mean(tokens: Tensor, level: Level) -> Tensor:
    return _cells(tokens, level).mean(1)


def _max(tokens: Tensor, level: Level) -> Tensor:
    return _cells(tokens, level).amax(1)


def _cls(tokens: Tensor, level: Level) -> Tensor:
    check_readout("cls", [level])
    return tokens[:, 0]


def _cls_mean(tokens: Tensor, level: Level) -> Tensor:
    import torch

    check_readout("cls_mean", [level])
    return torch.cat([tokens[:, 0], _mean(tokens, level)], dim=1)


def _registers(tokens: Tensor, level: Level) -> Tensor:
    check_readout("registers", [level])
    return tokens[:, 1 : level.prefix].mean(1)


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
    "cls": Readout(_cls, lambda level: level.dim, "class token", prefix=1),
    "cls_mean": Readout(
        _cls_mean, lambda level: 2 * level.dim, "class token, then the mean of the cells, as DINOv2", prefix=1
    ),
    "registers": Readout(
        _registers, lambda level: level.dim, "mean of the tokens between class token and cells", prefix=2
    ),
    "last4": Readout(
        _mean, lambda level: level.dim, "means of this level and the three before it, as I-JEPA of blocks", together=4
    ),
    "grid": Readout(
        _grid, lambda level: level.dim * _quadrants(level)[0] * _quadrants(level)[1], "means of the 2x2 quadrants"
    ),
    "tokens": Readout(_tokens, lambda level: level.dim * level.grid[0] * level.grid[1], "all cells, one after another"),
}


def check_readout(name: str, levels: Sequence[Level]) -> None:
    """Check that every level has what a readout reads.

    Raises:
        UnknownNameError: there is no such readout.
        EncoderError: it reads a class token or registers, and a level has none.
    """
    needed = get_readout(name).prefix
    for level in levels:
        if level.prefix < needed:
            lacks = "class token" if level.prefix == 0 else "token between its class token and its cells"
            raise EncoderError(f"level {level.index} ({level.name}) has no {lacks}; use --readout mean")


def read_levels(name: str, outputs: Sequence[Tensor], levels: Sequence[Level]) -> list[Tensor]:
    """Return the features `[B, F]` of every level from all levels' tokens, finest first."""
    import torch

    readout = get_readout(name)
    single = [readout.read(tokens, level) for tokens, level in zip(outputs, levels, strict=True)]
    if readout.together == 1:
        return single
    return [torch.cat(single[max(0, place + 1 - readout.together) : place + 1], dim=1) for place in range(len(single))]


def level_widths(name: str, levels: Sequence[Level]) -> list[int]:
    """Return the width of every level's features, finest first."""
    readout = get_readout(name)
    single = [readout.width(level) for level in levels]
    return [sum(single[max(0, place + 1 - readout.together) : place + 1]) for place in range(len(single))]


def single_readout(name: str) -> Readout:
    """Return a readout that reads one level only, as a head that is trained with an encoder does.

    Raises:
        UnknownNameError: there is no such readout.
        EncoderError: it reads several levels.
    """
    readout = get_readout(name)
    if readout.together > 1:
        raise EncoderError(f"--readout {name} reads several levels, and a fine-tuned head one; use --readout mean")
    return readout


def get_readout(name: str) -> Readout:
    """Return the readout of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in READOUTS:
        raise unknown("readout", name, READOUTS)
    return READOUTS[name]

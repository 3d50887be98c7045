"""Raw pixels: the baseline that needs no encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import EncoderError


class Pixels(Encoder):
    """The image itself, values in [0, 1], as one token of `3 * size * size` numbers."""

    def __init__(self, size: int = 32) -> None:
        """Take images resized to `size` x `size`."""
        super().__init__()
        self.name = "pixels"
        self.levels = (Level(0, f"{size}x{size} pixels", 3 * size * size, (1, 1)),)
        self.transform = Transform(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.settings = {}
        self.files = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, 1, 3 * size * size]` for images `[B, 3, size, size]`."""
        return [images.flatten(1).unsqueeze(1)]


class Colours(Encoder):
    """The mean colour of each cell, three numbers a token; every level has half as many rows of cells."""

    def __init__(self, size: int, cells: int) -> None:
        """Take images resized to `size` x `size`, as `cells` x `cells` tokens at the finest level."""
        super().__init__()
        self.name = "pixels"
        self.levels = cell_levels(cells, 3, "colours")
        self.transform = Transform(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.settings = {"cells": cells}
        self.files = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, T, 3]` for each level, for images `[B, 3, size, size]`."""
        return pyramid(F.avg_pool2d(images.float(), images.shape[-1] // self.levels[0].grid[0]), self.levels)


def cell_levels(cells: int, dim: int, what: str) -> tuple[Level, ...]:
    """Return levels of `cells` x `cells` tokens, then of half as many rows each, down to 2 x 2."""
    grids = [cells >> step for step in range(cells.bit_length()) if cells >> step >= 2]
    return tuple(
        Level(number, f"{what} of {grid}x{grid} cells", dim, (grid, grid)) for number, grid in enumerate(grids)
    )


def pyramid(maps: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """Return maps `[B, D, R, R]`, averaged to each level's grid, as tokens `[B, T, D]`."""
    pooled = [
        maps if level.grid[0] == maps.shape[2] else F.avg_pool2d(maps, 1 << number)
        for number, level in enumerate(levels)
    ]
    return [each.flatten(2).transpose(1, 2) for each in pooled]


def read_cells(options: Mapping[str, str], *, size: int, spec: str) -> int:
    """Return the rows of cells asked for with `?cells=`, 0 for none.

    Raises:
        EncoderError: they are no power of two from 2, or do not divide the image.
    """
    text = options.get("cells", "")
    if not text:
        return 0
    cells = int(text) if text.isascii() and text.isdigit() else 0
    if cells < 2 or cells & (cells - 1) or size % cells:
        raise EncoderError(f"{spec}?cells={text}: expected a power of two that divides {size} pixels, such as 8")
    return cells


def load_pixels(argument: str, options: Mapping[str, str] | None = None) -> Encoder:
    """Return `pixels` or `pixels:SIZE`; with `?cells=` the colours of cells.

    Raises:
        EncoderError: SIZE is no positive number, or cells do not fit it.
    """
    if argument and not (argument.isdigit() and int(argument) > 0):
        raise EncoderError(f"pixels:{argument}: expected a size in pixels, such as pixels:32")
    size = int(argument or 32)
    cells = read_cells(options or {}, size=size, spec=f"pixels:{size}")
    return Colours(size, cells) if cells else Pixels(size)

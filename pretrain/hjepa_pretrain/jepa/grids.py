"""Grids of any kind of data: for every level, which cell each token belongs to; pooling and masks follow from it.

Time steps, columns, characters of words of sentences and patches of pictures beside words of captions are all this.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hjepa_eval.errors import TrainingError


class Grid(NamedTuple):
    """Which cell every token of an example belongs to, level by level.

    Attributes:
        cells: per level int64 `[B, N]`; level 0 has a cell per token. -1 marks padding, at all levels alike.
    """

    cells: list[Tensor]

    @property
    def valid(self) -> Tensor:
        """Return bool `[B, N]`, False for padding."""
        return self.cells[0] >= 0


def line(batch: int, length: int, levels: int, *, device: torch.device) -> Grid:
    """Return the grid of a line of tokens whose cells of level l hold 2^l neighbours, such as steps of time."""
    places = torch.arange(length, device=device)
    return Grid([(places // 2**level).expand(batch, -1) for level in range(levels)])


def cell_means(tokens: Tensor, cells: Tensor, shown: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return fp32 means `[B, M, D]` over the tokens of each cell, and the share of its tokens that they are, `[B, M]`.

    Args:
        tokens: `[B, N, D]`.
        cells: int64 `[B, N]`, -1 for padding.
        shown: bool `[B, N]`; other tokens are left out, and make the share smaller. A cell without tokens has share 0.
    """
    count = int(cells.max()) + 1
    inside = cells >= 0
    kept = inside if shown is None else inside & shown
    index = cells.clamp(min=0)
    sums = tokens.new_zeros(len(tokens), count, tokens.shape[-1], dtype=torch.float32)
    weighted = tokens.float() * kept.unsqueeze(-1)
    sums = sums.scatter_add(1, index.unsqueeze(-1).expand_as(weighted), weighted)
    held, whole = (
        torch.zeros(len(tokens), count, device=tokens.device).scatter_add(1, index, flags.float())
        for flags in (kept, inside)
    )
    return sums / held.clamp(min=1).unsqueeze(-1), held / whole.clamp(min=1)


def hide_cells(grid: Grid, level: int, ratio: float, *, generator: torch.Generator) -> Tensor:
    """Return bool `[B, N]`, the hidden tokens: cells of a level in random order, until a share `ratio` is hidden.

    Every example keeps a token and hides a token; the last cell may be hidden in part.

    Args:
        grid: of the tokens.
        level: whose cells are hidden whole, such as the words of a text.
        ratio: share of the tokens that are no padding.
        generator: on the CPU.

    Raises:
        TrainingError: an example has fewer than two tokens.
    """
    cells, valid = grid.cells[level], grid.valid
    counts = valid.sum(dim=1)
    if int(counts.min()) < 2:
        row = int(counts.argmin())
        raise TrainingError(f"example {row} has {int(counts.min())} tokens, and nothing can be both shown and hidden")
    noise = torch.rand(len(cells), int(cells.max()) + 1, generator=generator).to(cells.device)
    order = noise.gather(1, cells.clamp(min=0)).masked_fill(~valid, 2.0)
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    hidden = (ratio * counts).round().clamp(min=1).minimum(counts - 1)
    return rank < hidden.unsqueeze(1)

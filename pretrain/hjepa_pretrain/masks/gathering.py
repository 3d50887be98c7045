"""Blocks gathered so that their union stays small, and what a block is where the lattice does not divide the grid.

The last cell of such a side is shorter than others. A block of k cells that ends there would lose tokens, and where it
lost too many no block would ever lie there: its cells would be hidden of no image. So it begins a cell earlier there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.masks.blocks import Grid
from hjepa_pretrain.masks.placement import drawn_corner, lattice_places, log_saliency


@dataclass(frozen=True)
class Boxes:
    """What a block covers when its corner is drawn, int64 `[B, rows, columns]`, one box for every corner of the grid.

    Attributes:
        top: its first row.
        left: its first column.
        bottom: the row after its last.
        right: the column after its last.
    """

    top: Tensor
    left: Tensor
    bottom: Tensor
    right: Tensor

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens of every box, `[B, rows, columns]`."""
        return (self.bottom - self.top) * (self.right - self.left)

    def sums(self, values: Tensor) -> Tensor:
        """Return `[B, rows, columns]`: the sum of `values` `[B, rows, columns]` inside every box."""
        sums = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1)
        inside = [sums.gather(1, corners) for corners in self._corners]
        return ((inside[0] - inside[1]) - (inside[2] - inside[3])).view(values.shape)

    @cached_property
    def _corners(self) -> list[Tensor]:
        """Where the four corners of every box lie in a table of sums with a row and a column more, `[B, N]` each."""
        width = self.top.shape[2] + 1
        rows = [row * width for row in (self.bottom, self.top)]
        return [(row + column).flatten(1) for column in (self.right, self.left) for row in rows]

    def painted(self, chosen: Tensor) -> Tensor:
        """Return bool `[B, rows, columns]`, True inside the box of the corner `chosen` `[B]`, counted row by row."""
        rows, columns = self.top.shape[1:]
        top, left, bottom, right = (
            side.flatten(1).gather(1, chosen.unsqueeze(1)).unsqueeze(2)
            for side in (self.top, self.left, self.bottom, self.right)
        )
        row = torch.arange(rows, device=chosen.device).view(1, -1, 1)
        column = torch.arange(columns, device=chosen.device)
        return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def boxes_of(grid: Grid, size: Tensor, cell: Tensor, *, least: Tensor) -> tuple[Boxes, Tensor]:
    """Return the boxes of blocks of `size` `[B, 2]`, and which corners are on the lattice, bool `[B, rows, columns]`.

    Args:
        grid: rows and columns.
        size: int64 `[B, 2]`, multiples of the lattice.
        cell: int64 `[B]`, side of the lattice's cells.
        least: int64 `[B]`, tokens that a box holds at least, as long as some corner offers so many. A block that ends
            in a shortened row or column of cells, and holds fewer, begins a cell earlier there: first along the side
            that loses more, then along the other as well.
    """
    rows, columns = grid
    corners = lattice_places(grid, size, cell)
    high, wide, cell = (number.view(-1, 1, 1) for number in (size[:, 0], size[:, 1], cell))
    top = torch.arange(rows, device=size.device).view(1, -1, 1).expand_as(corners)
    left = torch.arange(columns, device=size.device).expand_as(corners)
    boxes = Boxes(top, left, (top + high).clamp(max=rows), (left + wide).clamp(max=columns))
    fullest = boxes.tokens.masked_fill(~corners, 0).amax(dim=(1, 2), keepdim=True)
    least = torch.minimum(fullest, least.view(-1, 1, 1))
    rows_lost, columns_lost = (top + high - rows).clamp(min=0) * wide, (left + wide - columns).clamp(min=0) * high
    for rows_first in (True, False):
        short = boxes.tokens < least
        along_rows = (rows_lost >= columns_lost) == rows_first
        earlier_row = short & along_rows & (rows_lost > 0)
        earlier_column = short & ~along_rows & (columns_lost > 0)
        boxes = replace(
            boxes,
            top=torch.where(earlier_row, boxes.top - cell, boxes.top).clamp(min=0),
            left=torch.where(earlier_column, boxes.left - cell, boxes.left).clamp(min=0),
        )
    return boxes, corners & (boxes.tokens >= least)


def gathered_blocks(
    grid: Grid,
    size: Tensor,
    cell: Tensor,
    *,
    draws: Tensor,
    least: Tensor,
    most: Tensor,
    saliency: Tensor | None = None,
    strength: float = 0.0,
) -> Tensor:
    """Return bool blocks `[B, M, rows, columns]` whose union holds at most `most` tokens, where the size allows that.

    One block after another goes to a corner that keeps the union small enough; when there is none, to where it
    adds the fewest tokens.

    Args:
        grid: rows and columns.
        size: int64 `[B, 2]`, the same for all blocks of an image.
        cell: int64 `[B]`.
        draws: `[B, M, rows, columns]` in [0, 1), which decide.
        least: int64 `[B]`, tokens of a block at least; see `boxes_of`.
        most: int64 `[B]`, tokens of the union.
        saliency: `[B, N]`, or None.
        strength: of the preference for saliency.
    """
    boxes, corners = boxes_of(grid, size, cell, least=least)
    whole = boxes.tokens.float()
    taken = torch.zeros(len(size), *grid, dtype=torch.bool, device=size.device)
    weights = None if saliency is None else log_saliency(saliency.view(-1, *grid), boxes.sums, strength)
    painted = []
    for number in range(draws.shape[1]):
        added = (whole - boxes.sums(taken.float())).masked_fill(~corners, torch.inf)
        room = most.view(-1, 1, 1) - taken.sum(dim=(1, 2), keepdim=True)
        allowed = added <= torch.maximum(room, added.amin(dim=(1, 2), keepdim=True))
        block = boxes.painted(drawn_corner(draws[:, number], allowed, weights))
        taken |= block
        painted.append(block)
    return torch.stack(painted, dim=1)

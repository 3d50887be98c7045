"""Tiles and outlines: how a figure shows one grid of tokens.

Colours are Okabe and Ito's, which colour-blind readers tell apart; blocks also differ by their outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CONTEXT, TARGET, NEITHER = "#56B4E9", "#F6C27A", "#EDEDED"
OUTLINES = ("#000000", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#8C6D1F")
LEVELS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw_tiles(panel: Any, grid: tuple[int, int], colours: Sequence[str], *, cell: int = 1) -> None:
    """Draw a tile per token, thin lines between them, and thicker ones around cells of `cell` x `cell`."""
    from matplotlib.colors import to_rgb

    pixels = torch.tensor([to_rgb(colour) for colour in colours]).reshape(*grid, 3)
    panel.imshow(pixels.numpy(), extent=(0, grid[1], grid[0], 0), interpolation="nearest")
    for every, width, colour in ((1, 0.5, "white"), (cell, 1.4, "#777777")):
        if every > 1 or width < 1:
            panel.hlines(range(0, grid[0] + 1, every), 0, grid[1], color=colour, linewidth=width)
            panel.vlines(range(0, grid[1] + 1, every), 0, grid[0], color=colour, linewidth=width)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_color("#777777")


def draw_outline(panel: Any, flags: Tensor, colour: str, *, inset: float, width: float) -> None:
    """Draw the border of the flagged tokens `[rows, columns]`, moved inwards so that borders of blocks do not meet."""
    from matplotlib.collections import LineCollection

    padded = torch.nn.functional.pad(flags, (1, 1, 1, 1))

    def there(row: int, column: int) -> bool:
        return bool(padded[row + 1, column + 1])

    segments = []
    for row, column in flags.nonzero().tolist():
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if there(row + down, column + right):
                continue
            # A side reaches into the next token where the border goes on, and stops short at a corner.
            ends = []
            for way in (-1, 1):
                aside = (row + way * abs(right), column + way * abs(down))
                reach = inset if not there(*aside) else 0.0
                if there(*aside) and there(aside[0] + down, aside[1] + right):
                    reach = -inset
                ends.append(way * (0.5 - reach))
            x, y = column + 0.5 + right * (0.5 - inset), row + 0.5 + down * (0.5 - inset)
            segments.append([(x + abs(down) * end, y + abs(right) * end) for end in ends])
    panel.add_collection(LineCollection(segments, colors=colour, linewidths=width, capstyle="projecting"))


def shades(levels: int) -> list[str]:
    """Return a grey per count of levels, from nearly white to dark."""
    from matplotlib.colors import to_hex

    return [to_hex((shade, shade, shade)) for shade in torch.linspace(0.97, 0.5, levels + 1).tolist()]

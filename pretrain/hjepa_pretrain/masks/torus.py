"""Masks rolled around the grid: without it a block covers the centre more often than a corner."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain.masks.blocks import Grid


def roll_places(grid: Grid, cell: Tensor, *, share: float, seed: int, step: int, stream: str = "roll") -> Tensor | None:
    """Return int64 `[B, N]`: which token comes to each place when a `share` of the images is rolled; None for none.

    Offsets are multiples of the image's lattice `cell` `[B]`, so that its blocks stay on it; along a side that the
    lattice does not divide such an image stays where it is.
    """
    if share == 0:
        return None
    device = cell.device
    generator = seeded_generator(seed, step, stream, device)
    draws = torch.rand(len(cell), 3, generator=generator, device=device)
    rolled = draws[:, 2] < share
    places = []
    for axis, side in enumerate(grid):
        offset = (draws[:, axis] * (side // cell)).long() * cell
        offset = torch.where(rolled & (side % cell == 0), offset, 0)
        places.append((torch.arange(side, device=device) - offset.unsqueeze(1)) % side)
    return (places[0].unsqueeze(2) * grid[1] + places[1].unsqueeze(1)).flatten(1)


def roll(flags: Tensor, places: Tensor | None) -> Tensor:
    """Return flags `[B, N]` or `[B, M, N]` with the token of `places` `[B, N]` at each place."""
    if places is None:
        return flags
    if flags.ndim == 3:
        places = places.unsqueeze(1).expand(-1, flags.shape[1], -1)
    return flags.gather(-1, places)


def unroll(values: Tensor, places: Tensor | None) -> Tensor:
    """Return values `[B, N]` as they lie before `roll`."""
    return values if places is None else torch.empty_like(values).scatter_(1, places, values)

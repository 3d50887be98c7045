"""Where blocks go: anywhere, where it is salient, apart from each other, or rolled around the grid.

Corners lie on each image's own lattice, `cell` int64 `[B]` tokens apart. One draw decides every corner: a Gumbel
number plus the logarithm of its weight, the greatest wins, so that no image waits for another. Rolling is for edges:
without it a block covers the centre more often than a corner.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain.masks.blocks import Grid, paint


def random_corners(grid: Grid, sizes: Tensor, cell: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return int64 `[B, M, 2]`, a uniform corner for every block of `sizes` `[B, M, 2]`."""
    device = generator.device
    draws = torch.rand(sizes.shape, generator=generator, device=device)
    cell = cell.view(-1, 1, 1)
    sides = _on_device(grid, device)
    # Rounded up, so that a block may reach the last row when the lattice does not divide the grid.
    room = (sides + cell - 1) // cell - sizes // cell + 1
    return (draws * room).long() * cell


def salient_corners(
    grid: Grid, sizes: Tensor, cell: Tensor, saliency: Tensor, *, strength: float, generator: torch.Generator
) -> Tensor:
    """Return int64 `[B, M, 2]`, corners whose probability is the summed saliency inside, to the power of `strength`.

    Args:
        grid: rows and columns.
        sizes: int64 `[B, M, 2]`.
        cell: int64 `[B]`.
        saliency: `[B, N]`, not negative; its unit does not matter.
        strength: 0 is uniform.
        generator: draws.
    """
    batch, blocks, _ = sizes.shape
    flat = sizes.reshape(-1, 2)
    image = torch.arange(batch * blocks, device=sizes.device) // blocks
    weights = _weights(saliency.view(-1, *grid)[image], flat, strength)
    allowed = lattice_places(grid, flat, cell[image])
    return _draw(grid, allowed, weights, generator=generator).view(batch, blocks, 2)


def separate_blocks(
    grid: Grid,
    sizes: Tensor,
    cell: Tensor,
    *,
    shrink: bool,
    generator: torch.Generator,
    saliency: Tensor | None = None,
    strength: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return blocks without overlap `[B, M, rows, columns]`, and which images kept all their sizes `[B]`.

    Args:
        grid: rows and columns.
        sizes: int64 `[B, M, 2]`.
        cell: int64 `[B]`.
        shrink: whether a block that fits nowhere loses a row or column of cells until it does; else it is empty.
        generator: draws.
        saliency: `[B, N]`, or None.
        strength: of the preference for saliency.
    """
    batch, blocks, _ = sizes.shape
    taken = torch.zeros(batch, *grid, device=sizes.device)
    complete = torch.ones(batch, dtype=torch.bool, device=sizes.device)
    painted = []
    for number in range(blocks):
        size = sizes[:, number].clone()
        places = _free_places(grid, taken, size, cell)
        complete &= places.any(dim=(1, 2))
        while shrink:
            stuck = ~places.any(dim=(1, 2)) & (size > cell.unsqueeze(1)).any(dim=1)
            if not bool(stuck.any()):
                break
            longer = F.one_hot(size.argmax(dim=1), 2) * cell.unsqueeze(1)
            size = size - longer * stuck.unsqueeze(1)
            places = _free_places(grid, taken, size, cell)
        weights = None if saliency is None else _weights(saliency.view(-1, *grid), size, strength)
        block = paint(grid, _draw(grid, places, weights, generator=generator), size)
        block &= places.any(dim=(1, 2)).view(-1, 1, 1)
        taken = torch.maximum(taken, block.to(taken.dtype))
        painted.append(block)
    return torch.stack(painted, dim=1), complete


def lattice_places(grid: Grid, size: Tensor, cell: Tensor) -> Tensor:
    """Return bool `[B, rows, columns]`: corners where a block of `size` `[B, 2]` lies on the lattice."""
    sides, cell = _on_device(grid, size.device), cell.view(-1, 1)
    last = -(-sides // cell) * cell - size  # [B, 2]
    top, left = (torch.arange(side, device=size.device).unsqueeze(0) for side in grid)
    rows = (top % cell == 0) & (top <= last[:, :1])
    columns = (left % cell == 0) & (left <= last[:, 1:])
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def inside_sums(values: Tensor, size: Tensor) -> Tensor:
    """Return `[B, rows, columns]`: the sum of `values` inside a block of `size` `[B, 2]` with its corner there."""
    rows, columns = values.shape[1:]
    sums = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
    top, left = torch.arange(rows, device=size.device), torch.arange(columns, device=size.device)
    bottom = (top + size[:, :1]).clamp(max=rows).unsqueeze(2).expand(-1, -1, columns + 1)
    right = (left + size[:, 1:]).clamp(max=columns).unsqueeze(1).expand(-1, rows, -1)
    strips = sums.gather(1, bottom) - sums[:, :-1]
    return strips.gather(2, right) - strips[..., :-1]


def _free_places(grid: Grid, taken: Tensor, size: Tensor, cell: Tensor) -> Tensor:
    return lattice_places(grid, size, cell) & (inside_sums(taken, size) == 0)


def _weights(saliency: Tensor, size: Tensor, strength: float) -> Tensor:
    return log_saliency(saliency, lambda values: inside_sums(values, size), strength)


def log_saliency(saliency: Tensor, sums: Callable[[Tensor], Tensor], strength: float) -> Tensor:
    """Return log-weights of blocks: `strength` times the logarithm of what `sums` adds up of `saliency` inside them."""
    # Relative to the image's mean, so that the floor means the same for every unit.
    saliency = saliency.float().clamp(min=0)
    relative = saliency / saliency.mean(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return strength * sums(relative).clamp(min=1e-6).log()


def _draw(grid: Grid, allowed: Tensor, weights: Tensor | None, *, generator: torch.Generator) -> Tensor:
    """Return int64 `[B, 2]`, a corner among the `allowed` `[B, rows, columns]`, by log-weights or uniformly."""
    draws = torch.rand(allowed.shape, generator=generator, device=generator.device)
    corner = drawn_corner(draws, allowed, weights)
    return torch.stack((corner // grid[1], corner % grid[1]), dim=1)


def drawn_corner(draws: Tensor, allowed: Tensor, weights: Tensor | None) -> Tensor:
    """Return int64 `[B]`, row by row the corner among the `allowed` `[B, rows, columns]` that `draws` in [0, 1) favour.

    Log-weights `[B, rows, columns]` make some more probable than others; without them all are alike.
    """
    if weights is not None:
        draws = weights - (-draws.clamp(min=1e-12).log()).clamp(min=1e-12).log()
    return draws.masked_fill(~allowed, -torch.inf).flatten(1).argmax(dim=1)


def _on_device(grid: Grid, device: torch.device) -> Tensor:
    """Return int64 `[2]` without a copy that would wait for the device."""
    return torch.stack([torch.full((), side, dtype=torch.int64, device=device) for side in grid])


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

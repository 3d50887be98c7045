"""Blocks on a grid of tokens: how large those of a level are, on which lattice they lie, how one is drawn.

A block may lie on a lattice of `cell` x `cell` tokens, counted from the upper left as the levels' cells are. Where the
grid does not divide, the last cell holds fewer tokens, and so does a block that reaches it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hjepa_eval.errors import ConfigError, did_you_mean

Grid = tuple[int, int]
Range = tuple[float, float]


def grid_of(input_size: int | tuple[int, int], patch_size: int) -> Grid:
    """Return rows and columns of the patches of an image.

    Raises:
        ConfigError: the size is no side and no pair, or the patch does not divide the image.
    """
    sides = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(sides) != 2:
        raise ConfigError(f"input_size is {input_size}; expected a side in pixels, or (height, width)")
    height, width = sides
    if height % patch_size or width % patch_size:
        raise ConfigError(f"the patch size {patch_size} does not divide the image of {height}x{width} pixels")
    return height // patch_size, width // patch_size


def check_range(name: str, bounds: Range, *, most: float = math.inf) -> None:
    """Check that a pair rises within (0, most].

    Raises:
        ConfigError: it does not.
    """
    low, high = bounds
    if not 0 < low <= high <= most:
        raise ConfigError(
            f"{name} [{low}, {high}] must rise and lie above 0" + (f", up to {most}" if most == 1 else "")
        )


def check_share(name: str, share: float) -> None:
    """Check that a share of images lies in [0, 1].

    Raises:
        ConfigError: it does not.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} {share} is a share of images and must lie between 0 and 1")


def check_count(name: str, count: int) -> None:
    """Check that there is at least one.

    Raises:
        ConfigError: there is none.
    """
    if count < 1:
        raise ConfigError(f"{name} {count} must be at least 1")


def check_keep(name: str, count: int, num_patches: int) -> None:
    """Check that `count` context tokens leave something to see and something to predict.

    Raises:
        ConfigError: they do not.
    """
    if not 1 <= count < num_patches:
        raise ConfigError(f"{name} {count} must lie between 1 and {num_patches - 1}, one less than tokens")


def lattice_sizes(grid: Grid, *, cell: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return int64 `[S, 2]`, the (rows, columns) of all blocks on a lattice, their shares `[S]` and aspects `[S]`.

    Sizes are multiples of `cell`; share and aspect (rows / columns) count tokens on the grid only.
    """
    sides = [torch.arange(1, -(-side // cell) + 1) * cell for side in grid]
    sizes = torch.cartesian_prod(*sides)
    inside = torch.minimum(sizes, torch.tensor(grid))
    return sizes, inside.prod(dim=1) / math.prod(grid), inside[:, 0] / inside[:, 1]


def _within(values: Tensor, bounds: Range) -> Tensor:
    return (values >= bounds[0] - 1e-6) & (values <= bounds[1] + 1e-6)


def block_sizes(grid: Grid, scale: Range, aspect: Range, *, cell: int = 1) -> Tensor:
    """Return int64 `[S, 2]`, the (rows, columns) of all blocks on `grid` whose share and aspect lie in the ranges.

    Where no integer size meets both, the aspect gives way; where none meets the scale either, the nearest area wins.
    On a lattice (`cell` > 1), where sizes are few, both give way alike: the size with the least sum of squared
    log-ratios to the two ranges wins. On 8x8 tokens blocks of 15 to 20 % become 4x4 tokens, 25 %.
    """
    sizes, share, ratio = lattice_sizes(grid, cell=cell)
    in_scale, in_aspect = _within(share, scale), _within(ratio, aspect)
    if (in_scale & in_aspect).any():
        return sizes[in_scale & in_aspect]
    if cell > 1:
        excess = (share / share.clamp(*scale)).log() ** 2 + (ratio / ratio.clamp(*aspect)).log() ** 2
        return sizes[excess <= excess.min() + 1e-6]
    beyond = (ratio.log().abs() - math.log(max(aspect[1], 1 / aspect[0]))).clamp(min=0)
    distance = (share - share.clamp(*scale)).abs()
    chosen = in_scale if in_scale.any() else distance == distance.min()
    return sizes[chosen][beyond[chosen] == beyond[chosen].min()]


def sizes_in_scale(grid: Grid, scale: Range, *, cell: int) -> Tensor:
    """Return int64 `[S, 2]`, the blocks on a lattice whose share lies in `scale`, whatever their aspect; maybe none."""
    sizes, share, _ = lattice_sizes(grid, cell=cell)
    return sizes[_within(share, scale)]


class SizeTable:
    """Allowed block sizes, and how one of them is drawn; kept on every device it was asked for.

    Attributes:
        smallest: tokens of the smallest block.
    """

    def __init__(self, allowed: Tensor, *, grid: Grid, scale: Range, aspect: Range, aspect_weight: float = 1.0) -> None:
        """Prepare the table.

        Args:
            allowed: int64 `[S, 2]`, rows and columns.
            grid: rows and columns.
            scale: drawn uniformly, as a share of the grid.
            aspect: drawn log-uniformly, rows / columns.
            aspect_weight: what a squared log-ratio of aspects counts, beside one of areas.
        """
        self.scale, self.aspect, self.aspect_weight = scale, aspect, aspect_weight
        self.num_patches = math.prod(grid)
        inside = torch.minimum(allowed, torch.tensor(grid)).float()
        self.smallest = int(inside.prod(dim=1).min())
        rows = (allowed, inside.prod(dim=1).log(), (inside[:, 0] / inside[:, 1]).log())
        self._rows = {torch.device("cpu"): rows}

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Return int64 `[*shape, 2]`: the nearest allowed sizes to independent draws of scale and aspect."""
        device = generator.device
        if device not in self._rows:
            # Once: a copy from the host's memory waits for the device.
            allowed, log_area, log_aspect = (row.to(device) for row in self._rows[torch.device("cpu")])
            self._rows[device] = (allowed, log_area, log_aspect)
        allowed, log_area, log_aspect = self._rows[device]
        draws = torch.rand(2, *shape, generator=generator, device=device)
        low, high = (math.log(bound) for bound in self.aspect)
        area = (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])) * self.num_patches
        wanted = low + draws[1] * (high - low)
        distance = (area.log().unsqueeze(-1) - log_area) ** 2
        distance = distance + self.aspect_weight * (wanted.unsqueeze(-1) - log_aspect) ** 2
        return allowed[distance.argmin(dim=-1)]


def paint(grid: Grid, corners: Tensor, sizes: Tensor) -> Tensor:
    """Return bool `[..., rows, columns]`, True inside blocks given by corners and sizes `[..., 2]`."""
    rows = torch.arange(grid[0], device=corners.device)
    columns = torch.arange(grid[1], device=corners.device)
    top, left = corners[..., :1], corners[..., 1:]
    in_rows = (rows >= top) & (rows < top + sizes[..., :1])
    in_columns = (columns >= left) & (columns < left + sizes[..., 1:])
    return in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)


MOST_SCALE = 0.6
PROGRESSIONS = ("geometric", "linear")


def level_scales(base_scale: Range, progression: str, num_levels: int) -> list[Range]:
    """Return the smallest and largest share of a block at each level.

    Raises:
        ConfigError: there is no such progression, or a level's smallest block leaves no room for context.
    """
    if progression not in PROGRESSIONS:
        hint = did_you_mean(progression, PROGRESSIONS)
        raise ConfigError(f"unknown scale_progression {progression!r}{hint}; known: {', '.join(PROGRESSIONS)}")
    check_range("base_scale", base_scale, most=1)
    factors = [2**level if progression == "geometric" else level + 1 for level in range(num_levels)]
    scales = [(base_scale[0] * factor, min(base_scale[1] * factor, MOST_SCALE)) for factor in factors]
    for level, (low, high) in enumerate(scales):
        if low > high:
            raise ConfigError(
                f"base_scale [{base_scale[0]}, {base_scale[1]}] makes blocks of level {level} cover {low:.0%} or more, "
                f"above the {MOST_SCALE:.0%} that leave a context; lower it, or take scale_progression linear"
            )
    return scales


def level_lattice(grid: Grid, level: int, scale: Range) -> int:
    """Return the side of the level's cells, or of the coarsest finer ones on which some block meets `scale`."""
    for finer in range(level, 0, -1):
        if len(sizes_in_scale(grid, scale, cell=2**finer)):
            return int(2**finer)
    return 1

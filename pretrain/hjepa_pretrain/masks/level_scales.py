"""How large the blocks of a level are, and on which lattice they lie."""

from __future__ import annotations

from hjepa_eval.errors import ConfigError, did_you_mean
from hjepa_pretrain.masks.blocks import Grid, Range, check_range, sizes_in_scale

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

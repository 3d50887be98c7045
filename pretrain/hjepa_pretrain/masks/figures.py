"""Pictures of masks: what single images show and hide, and what a whole batch covers.

Colours are Okabe and Ito's, which colour-blind readers tell apart; blocks also differ by their outlines.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hjepa_eval.errors import ConfigError
from hjepa_eval.features.fingerprint import write_atomically

CONTEXT, TARGET, NEITHER = "#56B4E9", "#F6C27A", "#EDEDED"
OUTLINES = ("#000000", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#8C6D1F")
LEVELS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
FORMATS = (".png", ".pdf", ".svg")
_PANEL = 2.35


def draw_masks(
    context_mask: Tensor,
    target_masks: Tensor,
    grid: tuple[int, int],
    *,
    count: int = 4,
    title: str,
    save_path: Path | str | None = None,
) -> Any:
    """Return a matplotlib figure: the first images with their blocks, and how often each token is context or target.

    Args:
        context_mask: bool `[B, N]`, True = use.
        target_masks: bool `[B, M, N]`, True = use.
        grid: rows and columns.
        count: images to draw.
        title: above everything.
        save_path: where to write it as well, as PNG, PDF or SVG.

    Raises:
        ConfigError: the file cannot be written.
    """
    check_picture(save_path)
    context, targets = context_mask.cpu(), target_masks.cpu()
    count = min(count, len(context))
    figure, panels = _canvas(1, count, maps=2)
    _draw_row(figure, panels[0], context, targets, grid, count=count, cell=1)
    for number, panel in enumerate(panels[0][:count]):
        panel.set_title(f"image {number}", fontsize=9)
    panels[0][count].set_title("how often context", fontsize=9)
    panels[0][count + 1].set_title("how often target", fontsize=9)
    _legend(figure, _block_handles(targets.shape[1]))
    figure.suptitle(f"{title}: {grid[0]}x{grid[1]} tokens, batch of {len(context)}", fontsize=12)
    return _finish(figure, save_path)


def draw_levels(
    masks: Mapping[str, Mapping[str, Tensor]],
    grid: tuple[int, int],
    *,
    cells: Sequence[int],
    count: int = 4,
    save_path: Path | str | None = None,
) -> Any:
    """Return a matplotlib figure with a row per level, as `draw_masks` draws one, and the lattice of its blocks.

    Args:
        masks: `{"level_0": {"context": [B, N], "targets": [B, M, N]}, ...}`, True = use.
        grid: rows and columns.
        cells: side of each level's lattice in tokens.
        count: images to draw.
        save_path: where to write it as well.

    Raises:
        ConfigError: the file cannot be written.
    """
    check_picture(save_path)
    first = masks["level_0"]["context"]
    count = min(count, len(first))
    figure, panels = _canvas(len(masks), count, maps=2)
    for level, (row, each) in enumerate(zip(panels, masks.values(), strict=True)):
        _draw_row(figure, row, each["context"].cpu(), each["targets"].cpu(), grid, count=count, cell=cells[level])
        step = f"blocks on {cells[level]}x{cells[level]} tokens" if cells[level] > 1 else "blocks anywhere"
        row[0].set_ylabel(f"level {level}\n{step}", fontsize=9)
    for number, panel in enumerate(panels[0][:count]):
        panel.set_title(f"image {number}", fontsize=9)
    panels[0][count].set_title("how often context", fontsize=9)
    panels[0][count + 1].set_title("how often target", fontsize=9)
    _legend(figure, _block_handles(masks["level_0"]["targets"].shape[1]))
    figure.suptitle(f"Hierarchical masks: {grid[0]}x{grid[1]} tokens, batch of {len(first)}", fontsize=12)
    return _finish(figure, save_path)


def draw_combined(
    masks: Mapping[str, Mapping[str, Tensor]],
    grid: tuple[int, int],
    *,
    count: int = 4,
    save_path: Path | str | None = None,
) -> Any:
    """Return a matplotlib figure of all levels over each other: outlines of targets, shade for how many levels hide.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    check_picture(save_path)
    unions = [each["targets"].any(dim=1).cpu() for each in masks.values()]
    hidden = torch.stack(unions).sum(dim=0)
    count = min(count, len(hidden))
    figure, panels = _canvas(1, count, maps=0, panel=2.9)
    shades = _shades(len(unions))
    for number, panel in enumerate(panels[0]):
        _tiles(panel, grid, [shades[int(times)] for times in hidden[number]])
        for level, union in enumerate(unions):
            _outline(panel, union[number].reshape(grid), LEVELS[level], inset=0.05 + 0.09 * level, width=2.2)
        shares = ", ".join(f"{float(union[number].float().mean()):.0%}" for union in unions)
        panel.set_title(f"image {number}", fontsize=9)
        panel.set_xlabel(f"hidden at level 0, 1, ...:\n{shares}", fontsize=9)
    lines = [Line2D([], [], color=LEVELS[level], linewidth=2.2) for level in range(len(unions))]
    patches = [Patch(facecolor=shade, edgecolor="#999999") for shade in shades]
    names = [f"targets of level {level}" for level in range(len(unions))]
    counts = ["hidden at no level", *(f"at {times} of {len(unions)}" for times in range(1, len(unions) + 1))]
    _legend(figure, ([*lines, *patches], [*names, *counts]), columns=len(unions) + len(shades))
    figure.suptitle(f"All levels of hierarchical masks: {grid[0]}x{grid[1]} tokens", fontsize=12)
    return _finish(figure, save_path)


def check_picture(path: Path | str | None) -> None:
    """Check, before anything is drawn, that a picture can be written there.

    Raises:
        ConfigError: its ending is no format, it is a folder, or its folder is not there or allows no writing.
    """
    if path is None:
        return
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"cannot write {path}: pictures end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}: the folder {path.parent} allows no writing")


def _canvas(rows: int, images: int, *, maps: int, panel: float = _PANEL) -> tuple[Any, Any]:
    """Return a figure and its panels `[rows][images + maps]`."""
    from matplotlib.figure import Figure

    columns = images + maps
    figure = Figure(figsize=(max(panel * columns + 0.5, 6.0), (panel + 0.3) * rows + 1.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.06)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_row(
    figure: Any, panels: Any, context: Tensor, targets: Tensor, grid: tuple[int, int], *, count: int, cell: int
) -> None:
    """Draw images into the first panels and two maps of the batch into the last."""
    union = targets.any(dim=1)
    for number, panel in enumerate(panels[:count]):
        seen, hidden = context[number], union[number]
        colours = [CONTEXT if c else TARGET if t else NEITHER for c, t in zip(seen, hidden, strict=True)]
        _tiles(panel, grid, colours, cell=cell)
        if targets.shape[1] > 1:
            for block, flags in enumerate(targets[number]):
                colour = OUTLINES[block % len(OUTLINES)]
                _outline(panel, flags.reshape(grid), colour, inset=0.05 + 0.07 * (block % 5), width=1.6)
        share = float(seen.float().mean()), float(hidden.float().mean())
        panel.set_xlabel(f"context {share[0]:.0%}, targets {share[1]:.0%}", fontsize=9)
    for panel, often in zip(panels[count:], (context, union), strict=True):
        often = often.float().mean(dim=0)
        image = panel.imshow(often.reshape(grid).numpy(), cmap="viridis", vmin=0, vmax=1)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_xlabel(
            f"mean {float(often.mean()):.0%} ({float(often.min()):.0%} to {float(often.max()):.0%})", fontsize=9
        )
    figure.colorbar(image, ax=panels[count:], shrink=0.8, pad=0.02, format=lambda value, _: f"{value:.0%}")


def _tiles(panel: Any, grid: tuple[int, int], colours: Sequence[str], *, cell: int = 1) -> None:
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


def _outline(panel: Any, flags: Tensor, colour: str, *, inset: float, width: float) -> None:
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


def _shades(levels: int) -> list[str]:
    """Return a grey per count of levels, from nearly white to dark."""
    from matplotlib.colors import to_hex

    return [to_hex((shade, shade, shade)) for shade in torch.linspace(0.97, 0.5, levels + 1).tolist()]


def _block_handles(blocks: int) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, edgecolor="#999999") for colour in (CONTEXT, TARGET, NEITHER)]
    names = ["context (seen)", "targets (predicted)", "neither"]
    if blocks == 1:
        return patches, names
    shown = min(blocks, len(OUTLINES))
    lines = [Line2D([], [], color=OUTLINES[block], linewidth=1.8) for block in range(shown)]
    return [*patches, *lines], [*names, *(f"block {block}" for block in range(shown))]


def _legend(figure: Any, entries: tuple[list[Any], list[str]], *, columns: int = 9) -> None:
    handles, names = entries
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), frameon=False, fontsize=9)


def _finish(figure: Any, path: Path | str | None) -> Any:
    """Write the figure where that is asked for, whole or not at all, and return it."""
    if path is None:
        return figure
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix.lower()[1:], dpi=140)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    return figure

"""Pictures of masks: what single images show and hide, and what a whole batch covers."""

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
from hjepa_pretrain.masks.tiles import CONTEXT, LEVELS, NEITHER, OUTLINES, TARGET, draw_outline, draw_tiles, shades

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
    greys = shades(len(unions))
    for number, panel in enumerate(panels[0]):
        draw_tiles(panel, grid, [greys[int(times)] for times in hidden[number]])
        for level, union in enumerate(unions):
            draw_outline(
                panel, union[number].reshape(grid), LEVELS[level % len(LEVELS)], inset=0.05 + 0.09 * level, width=2.2
            )
        shares = ", ".join(f"{float(union[number].float().mean()):.0%}" for union in unions)
        panel.set_title(f"image {number}", fontsize=9)
        panel.set_xlabel(f"hidden at level 0, 1, ...:\n{shares}", fontsize=9)
    lines = [Line2D([], [], color=LEVELS[level % len(LEVELS)], linewidth=2.2) for level in range(len(unions))]
    patches = [Patch(facecolor=shade, edgecolor="#999999") for shade in greys]
    names = [f"targets of level {level}" for level in range(len(unions))]
    counts = ["hidden at no level", *(f"at {times} of {len(unions)}" for times in range(1, len(unions) + 1))]
    _legend(figure, ([*lines, *patches], [*names, *counts]), columns=len(unions) + len(greys))
    figure.suptitle(f"All levels of hierarchical masks: {grid[0]}x{grid[1]} tokens", fontsize=12)
    return _finish(figure, save_path)


def check_picture(path: Path | str | None) -> None:
    """Check, before anything is drawn, that a picture can be written there; folders that are absent will be made.

    Raises:
        ConfigError: its ending is no format, it is a folder, or its folder is none or allows no writing.
    """
    if path is None:
        return
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"cannot write {path}: pictures end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise ConfigError(f"cannot write {path}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"cannot write {path}: the folder {nearest} allows no writing")


def _canvas(rows: int, images: int, *, maps: int, panel: float = _PANEL) -> tuple[Any, Any]:
    """Return a figure and its panels `[rows][images + maps]`."""
    from matplotlib.figure import Figure

    columns = images + maps
    figure = Figure(figsize=(max(panel * columns + 0.5, 6.0), (panel + 0.3) * rows + 1.0))
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_row(
    figure: Any, panels: Any, context: Tensor, targets: Tensor, grid: tuple[int, int], *, count: int, cell: int
) -> None:
    """Draw images into the first panels and two maps of the batch into the last."""
    union = targets.any(dim=1)
    for number, panel in enumerate(panels[:count]):
        seen, hidden = context[number], union[number]
        colours = [CONTEXT if c else TARGET if t else NEITHER for c, t in zip(seen, hidden, strict=True)]
        draw_tiles(panel, grid, colours, cell=cell)
        if targets.shape[1] > 1:
            for block, flags in enumerate(targets[number]):
                colour = OUTLINES[block % len(OUTLINES)]
                draw_outline(panel, flags.reshape(grid), colour, inset=0.05 + 0.07 * (block % 5), width=1.6)
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

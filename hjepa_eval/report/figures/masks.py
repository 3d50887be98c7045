"""Masks of pretraining over train images: what the encoder saw, and which blocks it had to predict."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ResultError
from hjepa_eval.report.figures.drawing import drawn, page_style, series
from hjepa_eval.report.figures.svg import WIDTH, Picture, canvas, inline_svg
from hjepa_eval.results.gallery import ImageKey, MaskExamples

_COLUMNS = 3
_MOST_IN_TWO_COLUMNS = 4
_LEGEND = 26
_VEIL = 0.8


def mask_pictures(masks: MaskExamples, images: Mapping[ImageKey, bytes], *, prefix: str = "masks-") -> list[Picture]:
    """Return a picture per level with masks of its own: what is hidden lies under a veil, targets are outlined.

    Args:
        masks: of some train images.
        images: JPEG or PNG bytes by split and place, those of `masks.index` among them.
        prefix: begins the ids; a page with several runs gives each its own.

    Raises:
        ResultError: an image is missing or cannot be read.
    """
    shown = [_pixels(images, place) for place in masks.index.tolist()]
    pictures = []
    for number, (context, targets) in enumerate(zip(masks.context, masks.targets, strict=True)):
        level = f" of level {number}" if len(masks.context) > 1 else ""
        figure = draw_masks(shown, context, targets, grid=masks.grid)
        text = _describe(masks, number, level)
        title = f"Masks{level} ({masks.kind})"
        pictures.append(inline_svg(figure, title=title, text=text, prefix=f"{prefix}{number}-"))
    return pictures


@page_style()
def draw_masks(
    images: list[NDArray[np.uint8]],
    context: NDArray[np.bool_],
    targets: NDArray[np.bool_],
    *,
    grid: tuple[int, int],
) -> Any:
    """Return a matplotlib figure with a panel per image.

    Args:
        images: E arrays uint8 [H, W, 3], of any sizes.
        context: bool [E, tokens], True is seen.
        targets: bool [E, M, tokens], True is to be predicted.
        grid: tokens as (rows, columns).
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = min(2 if len(images) <= _MOST_IN_TWO_COLUMNS else _COLUMNS, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    side = (WIDTH - 10) / columns
    figure, panels = canvas(rows, columns, width=WIDTH, height=_LEGEND + rows * side * grid[0] / grid[1])
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, image, seen, blocks in zip(panels.flat, images, context, targets, strict=False):
        panel.imshow(image, extent=(0, grid[1], grid[0], 0), interpolation="none")
        panel.add_patch(_veil(~seen.reshape(grid)))
        for number, block in enumerate(blocks):
            if block.any():
                panel.add_patch(_outline(block.reshape(grid), drawn(series(number))))
    veil = Patch(facecolor=drawn("paper"), edgecolor=drawn("rest"), alpha=_VEIL, label="hidden")
    target = Line2D([], [], color=drawn(series(0)), linewidth=2, label="blocks to predict")
    figure.legend(handles=[veil, target], loc="outside lower center", ncols=2, handlelength=1.4)
    return figure


def _veil(hidden: NDArray[np.bool_]) -> Any:
    """Return the patch over all hidden tokens: a stripe for each run of them in a row."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    stripes = []
    for row, tokens in enumerate(hidden):
        edges = np.flatnonzero(np.diff(np.r_[0, tokens.astype(np.int8), 0]))
        stripes += [
            Path([(a, row), (b, row), (b, row + 1), (a, row + 1), (a, row)], closed=True)
            for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]
    path = Path.make_compound_path(*stripes) if stripes else Path(np.empty((0, 2)))
    return PathPatch(path, facecolor=drawn("paper"), edgecolor="none", alpha=_VEIL)


def _outline(block: NDArray[np.bool_], colour: str) -> Any:
    """Return the edges between the block's tokens and all others."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    padded = np.pad(block, 1).astype(np.int8)
    upright = np.argwhere(np.diff(padded, axis=1)[1:-1])
    level = np.argwhere(np.diff(padded, axis=0)[:, 1:-1])
    ends = [((x, y), (x, y + 1)) for y, x in upright.tolist()] + [((x, y), (x + 1, y)) for y, x in level.tolist()]
    path = Path([end for pair in ends for end in pair], [Path.MOVETO, Path.LINETO] * len(ends))
    return PathPatch(path, facecolor="none", edgecolor=colour, linewidth=2, capstyle="round", clip_on=False)


def _pixels(images: Mapping[ImageKey, bytes], place: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(images["train", place])) as image:
            return np.asarray(image.convert("RGB"))
    except KeyError:
        raise ResultError(f"the gallery has no copy of train image {place}; hjepa eval writes it anew") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ResultError(
            f"the gallery's copy of train image {place} cannot be read: {error}; hjepa eval writes it anew"
        ) from None


def _describe(masks: MaskExamples, number: int, level: str) -> str:
    rows, columns = masks.grid
    seen = 100 * masks.context[number].mean() if masks.context[number].size else 0.0
    hidden = 100 * masks.targets[number].any(axis=1).mean() if masks.targets[number].size else 0.0
    blocks = masks.targets.shape[2]
    return (
        f"Masks{level}, {masks.kind}, on {rows} x {columns} tokens of {len(masks.index)} train images: the encoder "
        f"sees {seen:.0f} percent of the tokens, {blocks} {'block' if blocks == 1 else 'blocks'} to predict cover "
        f"{hidden:.0f} percent."
    )

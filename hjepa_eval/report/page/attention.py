"""The attention explorer: one HTML file with images and where their patches attend, which opens without a server."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.report.page.template import page_parts, template_environment

STEPS = 65535
# Markup around an image beside its data, and its class name in the three places where it stands, escaped.
_MARKUP, _PER_LETTER = 400, 18


@dataclass(frozen=True)
class PackedShares:
    """Rows of shares in 16 bits.

    Attributes:
        steps: base64 of little-endian uint16 `[..., T, T]`: each share in steps of 1/65535 of its row's largest.
        largest: base64 of little-endian float32 `[..., T]`: the largest share of each row.
    """

    steps: str
    largest: str


def pack_shares(shares: NDArray[np.float32]) -> PackedShares:
    """Return float32 shares `[..., T, T]` in a third more than half of their size.

    A share's error is at most half a step, below 1e-5 of its row's largest. Rows are not normalised again: of a row
    with one large share that would move it by more than this.
    """
    largest = shares.max(axis=-1)
    scale = np.where(largest > 0, STEPS / np.where(largest > 0, largest, 1), 0)
    steps = np.rint(shares * scale[..., None].astype(np.float64)).astype("<u2")
    return PackedShares(_base64(steps.tobytes()), _base64(largest.astype("<f4").tobytes()))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class ShownImage:
    """One image of the explorer.

    Attributes:
        index: its place in the split's order.
        class_name: of its label.
        picture: base64 of a square PNG, as the encoder sees it.
        attention: of `[blocks, heads, T, T]`.
        rollout: of `[blocks, T, T]`.
        name: where it comes from, such as `test/cat/1.png`.
    """

    index: int
    class_name: str
    picture: str = field(repr=False)
    attention: PackedShares = field(repr=False)
    rollout: PackedShares = field(repr=False)
    name: str = ""

    @property
    def size(self) -> int:
        """Bytes of the page that this image takes, or a little less than that."""
        packed = (self.attention, self.rollout)
        data = len(self.picture) + sum(len(each.steps) + len(each.largest) for each in packed)
        return data + _MARKUP + _PER_LETTER * (len(self.class_name) + len(self.name))


def show_image(
    index: int,
    class_name: str,
    *,
    picture: bytes,
    attention: NDArray[np.float32],
    rollout: NDArray[np.float32],
    name: str = "",
) -> ShownImage:
    """Return an image with its attention `[blocks, heads, T, T]` and rollout `[blocks, T, T]`, packed."""
    return ShownImage(index, class_name, _base64(picture), pack_shares(attention), pack_shares(rollout), name)


@dataclass(frozen=True)
class ShownLevel:
    """A level whose cells can be laid over an image: number, name, and patches along the side of a cell."""

    index: int
    name: str
    size: int


@dataclass(frozen=True)
class Explorer:
    """What the page shows.

    Attributes:
        model: the encoder's name.
        dataset: the data set's name.
        split: `train` or `test`.
        image_size: side of the images in pixels.
        grid: rows and columns of patches.
        prefix_names: of the tokens before them.
        blocks: numbers of the blocks, from 1.
        heads: of each block.
        levels: whose cells fit the grid.
        images: at least one, unless the page is only measured.
        command: that makes the page again.
        made_with: versions and numbers, in words.
        notes: what a reader must know.
    """

    model: str
    dataset: str
    split: str
    image_size: int
    grid: tuple[int, int]
    prefix_names: tuple[str, ...]
    blocks: tuple[int, ...]
    heads: int
    levels: tuple[ShownLevel, ...]
    images: tuple[ShownImage, ...]
    command: str
    made_with: str
    notes: tuple[str, ...] = ()

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches."""
        return len(self.prefix_names)


def attention_page(explorer: Explorer) -> str:
    """Return the page as HTML: styles, script, images and numbers are in it, and it may ask for nothing else."""
    tokens = explorer.grid[0] * explorer.grid[1] + explorer.prefix
    return (
        template_environment()
        .get_template("attention.html")
        .render(
            page=explorer,
            data=_data(explorer),
            **page_parts(style="attention.css", script="attention.js"),
            most_bits=math.log2(tokens),
        )
    )


def _data(explorer: Explorer) -> dict[str, Any]:
    """Return what the script reads; names of data stay in the markup, where they are escaped."""
    return {
        "image_size": explorer.image_size,
        "grid": explorer.grid,
        "prefix": explorer.prefix_names,
        "blocks": explorer.blocks,
        "heads": explorer.heads,
        "levels": [{"index": level.index, "size": level.size} for level in explorer.levels],
        "images": [
            {"attention": asdict(image.attention), "rollout": asdict(image.rollout)} for image in explorer.images
        ],
    }

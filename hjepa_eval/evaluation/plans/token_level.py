"""One level's tokens beside what is known of the pixels that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import seen_part
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.extraction.extract import ExtractedStores
from hjepa_eval.probes.dense.ceilings import Truth
from hjepa_eval.probes.dense.cells import IGNORED, Cells, Frame, lay_cells
from hjepa_eval.probes.dense.token_rows import TokenRows

# Maps of images in memory: decoding them again for each level would take longer than all else.
_KEPT_MAPS = 1 << 28


@dataclass
class TokenLevel:
    """One level's tokens of both splits, and how its cells lie over the images."""

    row: LevelRow

    def __post_init__(self) -> None:
        """Look up the grids."""
        self.tokens = self.row.of_tokens()
        levels = self.tokens.features.splits["train"].store.manifest.levels
        (self.grid,) = (level.grid for level in levels if level.index == self.row.level)
        self.finest = max((level.grid for level in levels), key=lambda grid: grid[0] * grid[1])

    def rows(self, split: str) -> TokenRows:
        """Return the tokens of a split."""
        return TokenRows(self.tokens.stream(split).features, self.grid[0] * self.grid[1])

    def beside(self, name: str) -> tuple[TokenRows, NDArray[np.int64]]:
        """Return tokens of images made of the test images, and each one's place among those."""
        stores: ExtractedStores = self.tokens.features.beside[name]
        bank = stores.store.stream(self.row.level, limit=stores.limit)
        return TokenRows(bank, self.grid[0] * self.grid[1]), stores.store.index(limit=stores.limit)

    def images(self, split: str) -> ImageDataset:
        """Return the data set that a split's tokens are of."""
        return self.tokens.features.images[split]

    def cells(self, shape: tuple[int, int]) -> Cells:
        """Return how the level's cells lie over an image of so many rows and columns."""
        return lay_cells(self.frame(shape), self.grid, self.finest)

    def frame(self, shape: tuple[int, int]) -> Frame:
        """Return what the encoder sees of an image of so many rows and columns."""
        transform = self.row.features.transform
        if transform is None:
            raise ProbeError("these features do not say how images became their input, so no token has a place")
        return Frame(*shape, *seen_part(*shape, transform))

    def truth(self, split: str) -> Truth:
        """Return what is known of a split's pixels.

        Raises:
            DataError: nothing is known, or a mask does not fit.
        """
        maps = maps_of(self.images(split), "class")
        places = self.tokens.index(split)

        def classes(image: int) -> NDArray[np.uint8]:
            return maps(int(places[image]))

        def cells(image: int) -> Cells:
            height, width = classes(image).shape
            return self.cells((height, width))

        return Truth(classes, cells, len(places), len(self.images(split).map_classes))


def maps_of(images: ImageDataset, name: str) -> Callable[[int], NDArray[np.uint8]]:
    """Return a function that gives a map of an image and remembers as many as memory allows."""
    return _remembered(images, name, max(1, _KEPT_MAPS // max(1, images.maps(0)[name].size)))


@lru_cache(maxsize=8)
def _remembered(images: ImageDataset, name: str, most: int) -> Callable[[int], NDArray[np.uint8]]:
    classes = len(images.map_classes)

    @lru_cache(maxsize=most)
    def read(index: int) -> NDArray[np.uint8]:
        values = images.maps(index)[name]
        if name == "class":
            outside = values[(values >= classes) & (values != IGNORED)]
            if outside.size:
                raise ProbeError(
                    f"the mask of {images.source_name(index)} has class number {outside[0]} in {outside.size:,} "
                    f"pixels; there are {classes} classes, from 0, and {IGNORED} for pixels that take no part"
                )
        return values

    return read


def held_images(level: TokenLevel, seed: int, most: int) -> NDArray[np.int64]:
    """Return train images to choose by: a tenth, drawn by the seed, at most so many."""
    count = len(level.tokens.index("train"))
    if count < 2:
        raise ProbeError("one train image leaves none to choose by; take more")
    return np.sort(np.random.default_rng(seed).permutation(count)[: max(1, min(most, count // 10))])


def sight_note(level: TokenLevel) -> tuple[str, ...]:
    """Return a note where the encoder does not see whole images."""
    image = level.images("test").image(0)
    height, width = int(image.shape[1]), int(image.shape[2])
    frame = level.frame((height, width))
    rows = max(0.0, min(frame.bottom, height) - max(frame.top, 0.0)) / height
    columns = max(0.0, min(frame.right, width) - max(frame.left, 0.0)) / width
    share = rows * columns
    return (
        ()
        if share > 0.999
        else (f"the encoder sees the middle {100 * share:.0f} % of an image, and only those pixels are counted",)
    )

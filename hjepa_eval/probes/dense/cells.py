"""Cells and pixels: which pixels of an image a token stands for, and how numbers of tokens become numbers of pixels.

Nothing is resampled: of each cell the exact shares of its pixels' classes are counted, and scores of cells are
interpolated at the centres of the image's own pixels. Both are products with two small matrices, of rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
"""The class number of pixels that take no part in anything."""


@dataclass(frozen=True)
class Frame:
    """The part of an image of `height` x `width` pixels that an encoder sees, in pixels of that image."""

    height: int
    width: int
    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def whole(cls, height: int, width: int) -> Frame:
        """Return the frame of an encoder that sees all of the image."""
        return cls(height, width, 0.0, 0.0, float(height), float(width))


@dataclass(frozen=True)
class Cells:
    """How the cells of one level lie over an image.

    Attributes:
        row_share: float32 [rows, H], how much of each pixel row lies in each row of cells.
        column_share: float32 [columns, W].
        row_weight: float32 [P, rows], with which the P pixel rows inside the frame are interpolated between cells.
        column_weight: float32 [Q, columns].
        seen: the rows and columns of the pixels inside the frame.
    """

    row_share: NDArray[np.float32]
    column_share: NDArray[np.float32]
    row_weight: NDArray[np.float32]
    column_weight: NDArray[np.float32]
    seen: tuple[slice, slice]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.row_share), len(self.column_share)

    def histograms(self, classes: NDArray[np.uint8], *, num_classes: int) -> NDArray[np.float32]:
        """Return the share of each class in each cell, float32 [T, C], rows of 0 where all pixels are ignored.

        Args:
            classes: uint8 [H, W], class numbers or 255.
            num_classes: C.
        """
        shares = np.zeros((num_classes, *self.grid), np.float32)
        for label in np.unique(classes):
            if label != IGNORED:
                shares[label] = self.means((classes == label).astype(np.float32))
        counts = shares.reshape(num_classes, -1).T
        total = counts.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(counts, total, out=np.zeros_like(counts), where=total > 0))

    def means(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return sums of `values` [H, W] over each cell, weighted by the share of the pixel in it, [rows, columns]."""
        return np.asarray(self.row_share @ values @ self.column_share.T)

    def to_pixels(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores of cells [T, C] at the pixels inside the frame, bilinear, [C, P, Q]."""
        stacked = np.ascontiguousarray(scores.T, np.float32).reshape(-1, *self.grid)
        return np.asarray(np.matmul(np.matmul(self.row_weight, stacked), self.column_weight.T))

    def label_pixels(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class with the highest interpolated score at each pixel, int64 [P, Q]; of equals the lowest."""
        return np.asarray(self.to_pixels(scores).argmax(axis=0))

    def repeat_pixels(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class of the nearest cell at each pixel, int64 [P, Q], for classes of cells [T]."""
        table = labels.reshape(self.grid)
        return np.asarray(table[self.row_weight.argmax(axis=1)][:, self.column_weight.argmax(axis=1)])


@lru_cache(maxsize=256)
def lay_cells(frame: Frame, grid: tuple[int, int], finest: tuple[int, int]) -> Cells:
    """Return how a level's cells lie over an image.

    Args:
        frame: what the encoder sees of it.
        grid: rows and columns of the level's cells.
        finest: those of the encoder's finest level: a level whose cells do not divide it evenly ends in smaller cells.
    """
    rows, columns = _edges(grid[0], finest[0]), _edges(grid[1], finest[1])
    high, wide = frame.bottom - frame.top, frame.right - frame.left
    row_edges, column_edges = frame.top + rows * high, frame.left + columns * wide
    row_slice, column_slice = (
        _inside(frame.top, frame.bottom, frame.height),
        _inside(frame.left, frame.right, frame.width),
    )
    return Cells(
        _shares(row_edges, frame.height),
        _shares(column_edges, frame.width),
        _weights(row_edges, row_slice),
        _weights(column_edges, column_slice),
        (row_slice, column_slice),
    )


def _edges(cells: int, finest: int) -> NDArray[np.float64]:
    """Return the cells' edges in [0, 1]; cells are a power of two finest ones wide, the last perhaps less."""
    step = 1
    while -(-finest // step) > cells:
        step *= 2
    if -(-finest // step) != cells:
        return np.linspace(0.0, 1.0, cells + 1)
    return np.minimum(np.arange(cells + 1) * step / finest, 1.0)


def _inside(start: float, stop: float, length: int) -> slice:
    """Return the pixels whose centres lie between two places."""
    return slice(max(0, int(np.ceil(start - 0.5))), min(length, int(np.ceil(stop - 0.5))))


def _shares(edges: NDArray[np.float64], length: int) -> NDArray[np.float32]:
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(overlap, 0.0).astype(np.float32))


def _weights(edges: NDArray[np.float64], pixels: slice) -> NDArray[np.float32]:
    centres = (edges[1:] + edges[:-1]) / 2
    where = np.arange(pixels.start, pixels.stop) + 0.5
    weights = np.zeros((len(where), len(centres)))
    upper = np.clip(np.searchsorted(centres, where), 1, max(1, len(centres) - 1))
    if len(centres) == 1:
        weights[:, 0] = 1.0
        return weights.astype(np.float32)
    lower = upper - 1
    share = np.clip((where - centres[lower]) / (centres[upper] - centres[lower]), 0.0, 1.0)
    rows = np.arange(len(where))
    weights[rows, lower], weights[rows, upper] = 1 - share, share
    return weights.astype(np.float32)

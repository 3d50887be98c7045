"""Tokens of images as rows: the features of an image, [T * D] as stored, are T tokens of D numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.search.bank import Bank

# Float32 numbers read at a time: 32 MiB.
_BLOCK_ELEMENTS = 1 << 23


class TokenRows:
    """A bank of images' tokens [N, T * D] as a bank of tokens [N * T, D], image after image; it is read in blocks."""

    def __init__(self, images: Bank, tokens: int) -> None:
        """Take images of `tokens` tokens each.

        Raises:
            ProbeError: their features cannot be so many tokens.
        """
        self._images, self.tokens = images, tokens
        self.count, width = images.shape
        if width % tokens:
            raise ProbeError(f"features of {width} numbers are no {tokens} tokens; extract them with --readout tokens")
        self.width = width // tokens

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens of all images, and of dimensions."""
        return self.count * self.tokens, self.width

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all tokens in order, float32 [`rows`, D] at a time; the last block may be shorter."""
        left = np.empty((0, self.width), np.float32)
        for block in self.images(max(1, min(rows // self.tokens, _BLOCK_ELEMENTS // (self.tokens * self.width)))):
            left = np.concatenate([left, block.reshape(-1, self.width)])
            while len(left) >= rows:
                yield left[:rows]
                left = left[rows:]
        if len(left):
            yield left

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the tokens at `index` [M] as float32 [M, D]."""
        images, inverse = np.unique(index // self.tokens, return_inverse=True)
        out = np.empty((len(index), self.width), np.float32)
        step = max(1, _BLOCK_ELEMENTS // (self.tokens * self.width))
        for start in range(0, len(images), step):
            part = self.of(images[start : start + step])
            here = (inverse >= start) & (inverse < start + step)
            out[here] = part[inverse[here] - start, index[here] % self.tokens]
        return out

    def of(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the tokens of images [B] as float32 [B, T, D].

        Raises:
            ProbeError: one is NaN or infinite.
        """
        return self._checked(self._images.rows(images))

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of all tokens, float32 [D]."""
        total = np.zeros(self.width)
        for block in self.images():
            total += block.reshape(-1, self.width).sum(axis=0, dtype=np.float64)
        return (total / self.shape[0]).astype(np.float32)

    def images(self, count: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield the tokens of all images in order, float32 [B, T, D], `count` images at a time."""
        for block in self._images.blocks(count or max(1, _BLOCK_ELEMENTS // (self.tokens * self.width))):
            yield self._checked(block)

    def _checked(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(block.sum(dtype=np.float64)))
        if not finite:
            raise ProbeError(
                "tokens hold NaN or infinity; extract again with --precision fp32, or look for a diverged checkpoint"
            )
        return block.reshape(len(block), self.tokens, self.width)


@dataclass(frozen=True)
class PickedImages:
    """Some images of a bank of tokens, as a bank of images."""

    rows_of: TokenRows
    picked: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images and of their numbers."""
        return len(self.picked), self.rows_of.tokens * self.rows_of.width

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the images at `index` [M], float32 [M, T * D]."""
        return self.rows_of.of(self.picked[index]).reshape(len(index), -1)

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all of them in order, float32 [`rows`, T * D] at a time."""
        for start in range(0, len(self.picked), rows):
            yield self.rows(np.arange(start, min(start + rows, len(self.picked))))

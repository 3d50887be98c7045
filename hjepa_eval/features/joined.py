"""Several levels of the same images as one wide row of features, read block by block like a single level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hjepa_eval.errors import StoreError
from hjepa_eval.features.stream import StoredFeatures

_BLOCK_ELEMENTS = 1 << 22


class JoinedFeatures:
    """The features of several levels side by side, each divided by its scale."""

    def __init__(self, parts: Sequence[StoredFeatures], scales: Sequence[float]) -> None:
        """Join `parts`, all of the same N images in the same order.

        Raises:
            StoreError: the parts differ in length.
        """
        if len({part.shape[0] for part in parts}) != 1:
            lengths = ", ".join(str(part.shape[0]) for part in parts)
            raise StoreError(f"levels of {lengths} images cannot be joined; extract them again from one dataset")
        self._parts = list(zip(parts, scales, strict=True))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples N and of dimensions, the sum over the levels."""
        return self._parts[0][0].shape[0], sum(part.shape[1] for part, _ in self._parts)

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield all features in order, float32 [`rows`, D] at a time; the last block may be shorter.

        Raises:
            StoreError: a shard cannot be read any more; the message names it.
        """
        for blocks in zip(*(part.blocks(rows) for part, _ in self._parts), strict=True):
            yield self._join(blocks)

    def rows(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the features at `index` [M], in any order, as float32 [M, D].

        Raises:
            StoreError: a shard cannot be read any more; the message names it.
        """
        return self._join([part.rows(index) for part, _ in self._parts])

    def _join(self, arrays: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        scaled = [array / np.float32(scale) for array, (_, scale) in zip(arrays, self._parts, strict=True)]
        return np.concatenate(scaled, axis=1)


def root_mean_square_norm(features: StoredFeatures) -> float:
    """Return the square root of the mean squared norm of all rows, 1 where all are zero."""
    count, width = features.shape
    total = 0.0
    for block in features.blocks(max(1, _BLOCK_ELEMENTS // width)):
        total += float(np.square(block, dtype=np.float64).sum())
    return float(np.sqrt(total / count)) or 1.0

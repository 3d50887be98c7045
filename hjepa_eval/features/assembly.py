"""Assembly: rows that come batch by batch, put together into the missing shards of one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hjepa_eval.features.ranges import Range
from hjepa_eval.features.writer import StoreWriter


class Assembly:
    """Fills the missing shards within one range of a store, in order, holding one shard in memory at a time."""

    def __init__(self, writer: StoreWriter, within: Range) -> None:
        """Look which shards of `writer` inside `within` are missing."""
        self._writer = writer
        self._missing = [part for part in writer.missing if within.start <= part.start < within.stop]
        self._levels: list[npt.NDArray] = []
        self._labels: list[npt.NDArray[np.int64]] = []
        self._index: list[int] = []
        self._skipped: list[str] = []

    def wants(self, images: range) -> bool:
        """Tell whether a missing shard holds any of these images."""
        return any(part.start < images.stop and images.start < part.stop for part in self._missing)

    def add(
        self,
        images: range,
        index: Sequence[int],
        labels: npt.NDArray[np.int64],
        levels: Sequence[npt.NDArray[np.float32]],
        skipped: Mapping[int, str],
    ) -> None:
        """Take in one batch, and write every shard that it completes.

        Args:
            images: places in the dataset's order that the batch stands for; batches come in rising order.
            index: those of them that could be read, rising, `[B]`.
            labels: int64 `[B]`.
            levels: float32 `[B, D_l]`, finest first.
            skipped: why the others could not be read, by place.

        Raises:
            StoreError: a shard cannot be written; finished shards stay.
        """
        while self._missing and self._missing[0].start < images.stop:
            part = self._missing[0]
            first, last = np.searchsorted(index, [part.start, part.stop])
            self._copy(part, len(self._index), [level[first:last] for level in levels])
            self._index += index[first:last]
            self._labels.append(labels[first:last])
            self._skipped += [reason for place, reason in skipped.items() if part.start <= place < part.stop]
            if images.stop < part.stop:
                return
            self._write(part)

    def _copy(self, part: Range, start: int, rows: Sequence[npt.NDArray[np.float32]]) -> None:
        manifest = self._writer.manifest
        if not self._levels:
            size = part.stop - part.start
            self._levels = [np.empty((size, level.width), manifest.storage) for level in manifest.levels]
        for place, found in zip(self._levels, rows, strict=True):
            # A value too large for float16 becomes infinite, which the writer refuses.
            with np.errstate(over="ignore"):
                place[start : start + len(found)] = found

    def _write(self, part: Range) -> None:
        count = len(self._index)
        levels = {
            f"level{level.index}": rows[:count]
            for level, rows in zip(self._writer.manifest.levels, self._levels, strict=True)
        }
        columns = {"labels": np.concatenate(self._labels), "index": np.asarray(self._index, dtype=np.int64)}
        self._writer.write(part, {**levels, **columns}, tuple(self._skipped))
        self._missing.pop(0)
        self._levels, self._labels, self._index, self._skipped = [], [], [], []

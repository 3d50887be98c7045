"""What a probe is run on: one level, or all levels joined as one wide row, of both splits, read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from hjepa_eval.datasets.subsets.superclasses import read_superclasses, superclasses_for
from hjepa_eval.errors import DataError, StoreError
from hjepa_eval.evaluation.features import FeatureSet
from hjepa_eval.features.names import read_names
from hjepa_eval.features.store import FeatureStore, StoredFeatures
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.probes.search.bank import Bank

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


def root_mean_square_norm(features: Bank) -> float:
    """Return the square root of the mean squared norm of all rows, 1 where all are zero."""
    count, width = features.shape
    total = 0.0
    for block in features.blocks(max(1, _BLOCK_ELEMENTS // width)):
        total += float(np.square(block, dtype=np.float64).sum())
    return float(np.sqrt(total / count)) or 1.0


@dataclass(frozen=True)
class LevelRow:
    """One row of the table.

    Attributes:
        features: the stores.
        level: its number; levels joined have the number after the last.
        name: what it reads.
        width: numbers per image.
        tokens: tokens per image at the encoder's output.
        parts: the levels that it consists of: itself, or all of them.
        scales: what each part is divided by; empty for a single level.
    """

    features: FeatureSet
    level: int
    name: str
    width: int
    tokens: int
    parts: tuple[int, ...]
    scales: tuple[float, ...] = field(default=(), repr=False)

    @property
    def fused(self) -> tuple[int, ...]:
        """The levels joined here; empty for a single level."""
        return self.parts if self.scales else ()

    @property
    def copies(self) -> int:
        """How many arrays of train features a fit may read: every readout, plain and in every augmented view."""
        return (1 + len(self.features.others)) * (1 + len(self.features.views))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.features.class_names

    def stream(self, split: str) -> StreamedSamples:
        """Return features and labels of a split, read block by block."""
        extraction = self.features.splits[split]
        store, limit = extraction.store, extraction.limit
        return StreamedSamples(self._read(store, limit), store.labels(limit=limit))

    def samples(self, split: str) -> Samples:
        """Return features and labels of a split in memory."""
        streamed = self.stream(split)
        return Samples(_whole(streamed.features), streamed.labels)

    def train_views(self) -> list[NDArray[np.float32]]:
        """Return the train features of every augmented view, rows as in `samples("train")`; none without --views."""
        return [_whole(self._read(view.store, view.limit)) for view in self.features.views]

    def _read(self, store: FeatureStore, limit: int) -> StoredFeatures | JoinedFeatures:
        parts = [store.stream(level, limit=limit) for level in self.parts]
        return JoinedFeatures(parts, self.scales) if self.scales else parts[0]

    def readouts(self) -> dict[str, LevelRow]:
        """Return this row under every readout that was asked for, its own first."""
        rows = {}
        for features in (self.features, *self.features.others):
            manifest = features.splits["train"].store.manifest
            scales = (
                self.scales if features is self.features else _scales(features, self.parts, joined=bool(self.scales))
            )
            width = sum(level.width for level in manifest.levels if level.index in self.parts)
            rows[manifest.readout] = replace(self, features=features, width=width, scales=scales)
        return rows

    def of_tokens(self, readout: str = "tokens") -> LevelRow:
        """Return this row under a readout that a probe of tokens reads; it may be of a part of train."""
        features = self.features.tokens[readout]
        manifest = features.splits["train"].store.manifest
        width = sum(level.width for level in manifest.levels if level.index in self.parts)
        return replace(self, features=features, width=width, scales=())

    def superclass(self, file: Path | None) -> NDArray[np.int64] | None:
        """Return the superclass of each class, int64 [C], from a JSON file or as the dataset's authors defined them.

        Raises:
            DataError: the file does not fit the classes.
        """
        name = self.features.splits["train"].store.manifest.dataset
        found = read_superclasses(file, self.class_names) if file else superclasses_for(name, self.class_names)
        return None if found is None else found.of_class

    def index(self, split: str) -> NDArray[np.int64]:
        """Return each sample's place in the dataset's order, int64 [N]."""
        extraction = self.features.splits[split]
        return extraction.store.index(limit=extraction.limit)

    def names(self, split: str) -> list[str] | None:
        """Return where each sample comes from, such as `test/cat/1.png`; None where the store does not say."""
        extraction = self.features.splits[split]
        return read_names(extraction.store, limit=extraction.limit)


def superclass_name(file: Path | None) -> str | None:
    """Return what a record says about a file of superclasses: its name and content; None for the dataset's own.

    Raises:
        DataError: the file cannot be read.
    """
    if file is None:
        return None
    try:
        return f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise DataError(f"cannot read the superclasses {file}: {error.strerror}") from None


def _whole(bank: Bank) -> NDArray[np.float32]:
    return next(bank.blocks(max(1, bank.shape[0])))


def level_rows(features: FeatureSet, *, fuse: bool) -> list[LevelRow]:
    """Return a row per level asked for, and with `fuse` one more with all of them joined.

    Before they are joined every level is brought to the same root mean square norm on train (one factor per level), so
    that none weighs more only because its numbers are larger. That norm is the levels' own on average: a penalty means
    for the joined features what it means for each.
    """
    rows = [
        LevelRow(features, level.index, level.name, level.width, level.tokens, (level.index,))
        for level in features.levels
    ]
    if not fuse or len(rows) < 2:
        return rows
    parts = tuple(row.level for row in rows)
    scales = _scales(features, parts, joined=True)
    named = "+".join(map(str, parts))
    last = max(level.index for level in features.splits["train"].store.manifest.levels)
    width, tokens = sum(row.width for row in rows), sum(row.tokens for row in rows)
    return [*rows, LevelRow(features, last + 1, f"levels {named} joined", width, tokens, parts, scales)]


def _scales(features: FeatureSet, parts: tuple[int, ...], *, joined: bool) -> tuple[float, ...]:
    if not joined:
        return ()
    train = features.splits["train"]
    norms = [root_mean_square_norm(train.store.stream(level, limit=train.limit)) for level in parts]
    usual = float(np.sqrt(np.mean(np.square(norms))))
    return tuple(norm / usual for norm in norms)

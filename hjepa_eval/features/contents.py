"""All that a store holds, ready to be used: every level as an array, labels, classes, and where images come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.features.mapped import read_features
from hjepa_eval.features.names import read_names
from hjepa_eval.features.store import FeatureStore


@dataclass(frozen=True)
class StoreContents:
    """A store of N images.

    Attributes:
        encoder: name of the encoder.
        dataset: name of the dataset.
        split: `train` or `test`.
        levels: number of the level -> [N, D], float32 or float16 as stored, mapped from the shards.
        labels: int64 [N].
        index: int64 [N], places in the dataset's order, rising.
        class_names: of each label.
        names: where each image comes from, such as `test/cat/1.png`; None in a store of before.
    """

    encoder: str
    dataset: str
    split: str
    levels: dict[int, NDArray[Any]] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...]
    names: list[str] | None = field(repr=False)


def read_store(store: FeatureStore | Path | str) -> StoreContents:
    """Return all that a store holds; features are mapped, so only what is touched is read.

    Args:
        store: a store, as `extract(...).splits["train"].store`, or its folder.

    Raises:
        StoreError: the folder holds no complete store, or a file of it is not what the manifest says.
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(Path(store), verify=False)
    manifest = opened.manifest
    return StoreContents(
        encoder=manifest.encoder,
        dataset=manifest.dataset,
        split=manifest.split,
        levels={level.index: read_features(opened, level.index) for level in manifest.levels},
        labels=opened.labels(),
        index=opened.index(),
        class_names=manifest.class_names,
        names=read_names(opened),
    )

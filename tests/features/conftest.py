from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter

MakeStore = Callable[..., Any]


@pytest.fixture
def make_store() -> MakeStore:
    """Fill a store of two levels with noise: `make_store(folder, images=10_000, widths=(6, 64), skipped=[17])`.

    With `finish=False` the writer comes back instead, having written the first `shards` of those that were missing.
    """

    def make(
        folder: Path,
        *,
        images: int = 10_000,
        widths: tuple[int, ...] = (6, 64),
        storage: str = "float32",
        skipped: tuple[int, ...] = (),
        class_names: tuple[str, ...] = ("cat", "dog"),
        dataset: str = "data",
        finish: bool = True,
        shards: int | None = None,
        **identity: object,
    ) -> FeatureStore | StoreWriter:
        levels = tuple(StoredLevel(place, f"l{place}", width, (1, 1), 1) for place, width in enumerate(widths))
        about = {"storage": storage, **identity}
        manifest = Manifest(about, "encoder", dataset, "train", "mean", levels, class_names, images, images)
        writer = StoreWriter(folder, manifest)
        for part in writer.missing[:shards]:
            index = np.setdiff1d(np.arange(part.start, part.stop), skipped).astype(np.int64)
            generator = np.random.default_rng(part.start)
            noise = [generator.standard_normal((len(index), width), np.float32).astype(storage) for width in widths]
            tensors = {f"level{place}": array for place, array in enumerate(noise)}
            reasons = tuple(f"{place}.png is empty" for place in skipped if part.start <= place < part.stop)
            writer.write(part, {**tensors, "labels": index % 2, "index": index}, reasons)
        return writer.finish() if finish else writer

    return make

"""A seeded part of a data set: as many images as asked for, balanced over classes."""

from __future__ import annotations

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset, class_ranks
from hjepa_eval.datasets.randomness import derive_seed, uniform_rows
from hjepa_eval.datasets.subsets.subsets import Subset


def draw_part(dataset: ImageDataset, count: int, *, seed: int) -> ImageDataset:
    """Return `count` images of a data set, drawn by a seed, or the data set where it has no more.

    Of each class equally many are taken, as far as there are so many; a smaller part is contained in a larger one of
    the same seed.
    """
    if count >= len(dataset):
        return dataset
    order = np.argsort(
        uniform_rows(derive_seed(seed, 0, "part of a data set"), np.arange(len(dataset)), columns=1)[:, 0]
    )
    ranks = class_ranks(dataset.labels[order])
    positions = np.sort(order[np.lexsort((dataset.labels[order], ranks))[:count]])
    return Subset(
        dataset,
        positions,
        classes=np.arange(len(dataset.class_names)),
        split=dataset.split,
        name=f"{dataset.name}, {count:,} {dataset.split} images drawn with seed {seed}",
        identity={"part": count, "seed": seed},
        notes=(),
    )

"""Images that are in both splits: a probe that has seen a test image in train is not tested by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.memo import remembered


def count_shared(train: ImageDataset, test: ImageDataset, *, most: int | None = None, memo: Path | None = None) -> int:
    """Return how many test images are in train too, byte for byte; of sources without files, pixel for pixel.

    Args:
        train: one split.
        test: the other.
        most: only so many images from the beginning of each; None for all.
        memo: folder for remembered counts.
    """
    key = ["shared images", train.fingerprint, test.fingerprint, most]

    def count() -> dict[str, int]:
        bank, asked = train.digests()[:most], test.digests()[:most]
        # 0 stands for what could not be read.
        return {"shared": int(np.isin(asked[asked > 0], bank).sum())}

    return int(remembered(memo, hash_json(key), count)["shared"])


def shared_note(shared: int, test_images: int) -> tuple[str, ...]:
    """Return a note for records and tables if any test images are in train."""
    if shared == 0:
        return ()
    are = "image is" if shared == 1 else "images are"
    return (f"{shared:,} of the {test_images:,} test {are} in train too, byte for byte: scores on them say little",)

"""STL-10: the labelled images of the official binary files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.files.listing import is_folder
from hjepa_eval.datasets.named.copies import count_notes
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import ChangedError, DataError
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.memo import file_state, file_states, fingerprint_files

if TYPE_CHECKING:
    from torch import Tensor

NUM_IMAGES: Mapping[str, int] = {"train": 5_000, "test": 8_000}
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SIDE = 96
_OFFICIAL = "stl10_binary"


class Stl10(ImageDataset):
    """One labelled split of STL-10; the 100,000 images without labels are not read.

    Source: Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised feature learning", 2011.
    """

    def __init__(self, folder: Path, *, split: str, memo: Path | None) -> None:
        """Read the labels of one split; pixels stay on the disk until they are asked for.

        Raises:
            DataError: a file is missing or damaged, or does not fit the other one.
        """
        names = [f"{split}_X.bin", f"{split}_y.bin"]
        pixels, numbers = (_bytes(folder / name) for name in names)
        size = 3 * SIDE * SIDE
        if len(pixels) != len(numbers) * size:
            raise DataError(
                f"{folder / names[0]} has {len(pixels):,} bytes; expected {len(numbers):,} images of {size:,} bytes, "
                f"one per label in {names[1]}; unpack stl10_binary.tar.gz again"
            )
        if numbers.min() < 1 or numbers.max() > len(CLASSES):
            raise DataError(f"{folder / names[1]} has labels outside 1 to 10; unpack stl10_binary.tar.gz again")
        targets = numbers.astype(np.int64) - 1
        if len(targets) == NUM_IMAGES[split]:
            _check_sums(folder, names)
        self.name = "stl10"
        self.split = split
        self.class_names = CLASSES
        self._order = interleave(targets)
        self.labels = targets[self._order]
        # Each image is three planes, each plane column by column.
        self._pixels = pixels.reshape(-1, 3, SIDE, SIDE)
        self.where = str(folder / names[1])
        self._path, status = folder / names[0], (folder / names[0]).stat()
        self._state = file_state(status)
        states = file_states([status, (folder / names[1]).stat()])
        files = fingerprint_files(folder, names, states=states, memo=memo).fingerprint
        self.fingerprint = hash_json({"stl10": split, "files": files})
        self.notes = count_notes(self, NUM_IMAGES)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 `[3, 96, 96]`.

        Raises:
            ChangedError: the file is not what it was when the fingerprint was taken.
        """
        if not os.path.exists(self._path) or file_state(os.stat(self._path)) != self._state:
            raise ChangedError(f"{self._path} changed since its dataset was opened; run the same command again")
        columns = self._pixels[self._order[index]]
        import torch

        return torch.from_numpy(np.ascontiguousarray(columns.transpose(0, 2, 1)))

    def source_name(self, index: int) -> str:
        """Return `train/<row>` or `test/<row>`, the row of image `index` in `<split>_X.bin`."""
        return f"{self.split}/{self._order[index]}"


def _bytes(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is empty"
        raise DataError(f"stl10: cannot read {path}: {reason}; unpack stl10_binary.tar.gz again") from None


def _check_sums(folder: Path, names: list[str]) -> None:
    """Compare the files of a complete split with their published MD5 sums."""
    from torchvision.datasets import STL10
    from torchvision.datasets.utils import check_integrity

    sums = dict([*STL10.train_list, *STL10.test_list])
    for name in names:
        if not check_integrity(str(folder / name), sums[name]):
            raise DataError(f"{folder / name} does not match its published MD5 sum; unpack stl10_binary.tar.gz again")


def load_stl10(root: Path, *, split: str, download: bool, memo: Path | None) -> ImageDataset:
    """Return STL-10 from `root` or `root/stl10`.

    Raises:
        DataError: it is not there, or its files are damaged; the message says what to do.
    """
    for folder in (root / _OFFICIAL, root / "stl10" / _OFFICIAL, root, root / "stl10"):
        if is_folder(folder) and (folder / f"{split}_X.bin").is_file():
            return Stl10(folder, split=split, memo=memo)
    if download:
        from torchvision.datasets import STL10

        try:
            STL10(str(root), split=split, download=True)
        except (RuntimeError, OSError, EOFError) as error:
            raise DataError(f"stl10: the download to {root} failed: {error}; try again") from None
        return Stl10(root / _OFFICIAL, split=split, memo=memo)
    raise DataError(
        f"stl10 is not under {root}: expected {_OFFICIAL}/ with {split}_X.bin and {split}_y.bin there or in "
        f"{root / 'stl10'}; "
        "name its folder with --root (or HJEPA_DATA), or fetch the official files with --download (2.6 GB)"
    )

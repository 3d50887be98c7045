"""CIFAR-10 and CIFAR-100: the official files as torchvision reads them, or a copy in class folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hjepa_eval.datasets.files.folder import ImageFolder
from hjepa_eval.datasets.files.listing import Links, is_folder
from hjepa_eval.datasets.named.copies import check_class_count, count_notes
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

NUM_IMAGES = {"train": 50_000, "test": 10_000}
_CLASSES = {"cifar10": 10, "cifar100": 100}
_OFFICIAL = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


class Cifar(ImageDataset):
    """The official CIFAR files, checked by torchvision against their published MD5 sums."""

    def __init__(self, name: str, root: Path, *, split: str, download: bool) -> None:
        """Load one split into memory.

        Raises:
            DataError: the files are missing or damaged.
        """
        import torch
        from torchvision.datasets import CIFAR10, CIFAR100

        source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
        try:
            files = source(str(root), train=split == "train", download=download)
        except (RuntimeError, OSError, EOFError) as error:
            if download:
                raise DataError(f"{name}: the download to {root} failed: {error}; try again") from None
            raise DataError(
                f"{name}: the files under {root / _OFFICIAL[name]} are incomplete or damaged; "
                "delete that folder and fetch them again with --download"
            ) from None
        targets = np.asarray(files.targets, dtype=np.int64)
        order = interleave(targets)
        pixels = np.ascontiguousarray(files.data[order].transpose(0, 3, 1, 2))
        self.name = name
        self.split = split
        self.class_names = tuple(files.classes)
        self.labels = targets[order]
        self._order = order
        self._images = torch.from_numpy(pixels)
        digest = hashlib.sha256(f"{name}|{split}|".encode())
        digest.update(self.labels.tobytes())
        digest.update(pixels.data)
        self.fingerprint = digest.hexdigest()

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 `[3, 32, 32]`."""
        return self._images[index]

    def source_name(self, index: int) -> str:
        """Return `train/<row>` or `test/<row>`, the row of image `index` in the official files, batch after batch."""
        return f"{self.split}/{self._order[index]}"


def load_cifar(
    name: str, root: Path, *, split: str, download: bool, memo: Path | None, follow_links: bool = False
) -> ImageDataset:
    """Return CIFAR from `root` or `root/<name>`: the official files, or a class-folder copy.

    Raises:
        DataError: neither is there, or what is there is incomplete; the message says what to do.
    """
    for folder in (root, root / name):
        if is_folder(folder / _OFFICIAL[name]):
            return Cifar(name, folder, split=split, download=False)
        if is_folder(folder / "train"):
            check_class_count(name, folder, expected=_CLASSES[name], links=Links(folder, follow=follow_links))
            copy = ImageFolder(name, folder, split=split, memo=memo, follow_links=follow_links)
            copy.notes = count_notes(copy, NUM_IMAGES)
            return copy
    if download:
        return Cifar(name, root, split=split, download=True)
    archive = next((f for f in (root / _ARCHIVES[name], root / name / _ARCHIVES[name]) if f.is_file()), None)
    if archive is not None:
        raise DataError(f"{name}: found only the archive {archive}; unpack it, or let --download check and unpack it")
    raise DataError(
        f"{name} is not under {root}: no {_OFFICIAL[name]}/ and no train/<class>/ folders; "
        "name its folder with --root (or HJEPA_DATA), or fetch the official files with --download"
    )

"""CIFAR-10 and CIFAR-100: the official files as torchvision reads them, or a copy in class folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hjepa_eval.datasets.folder import ImageFolder, is_folder, split_folder
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError, first_few

NUM_IMAGES = {"train": 50_000, "test": 10_000}
_OFFICIAL = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


class Cifar(ImageDataset):
    """The official CIFAR files, checked by torchvision against their published MD5 sums."""

    def __init__(self, name: str, root: Path, *, split: str, download: bool) -> None:
        """Load one split into memory.

        Raises:
            DataError: the files are missing or damaged.
        """
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
        self._images = torch.from_numpy(pixels)
        digest = hashlib.sha256(f"{name}|{split}|".encode())
        digest.update(self.labels.tobytes())
        digest.update(pixels.data)
        self.fingerprint = digest.hexdigest()

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 `[3, 32, 32]`."""
        return self._images[index]


def load_cifar(name: str, root: Path, *, split: str, download: bool, memo: Path | None) -> ImageDataset:
    """Return CIFAR from `root` or `root/<name>`: the official files, or a class-folder copy.

    Raises:
        DataError: neither is there, or what is there is incomplete; the message says what to do.
    """
    for folder in (root, root / name):
        if is_folder(folder / _OFFICIAL[name]):
            return Cifar(name, folder, split=split, download=False)
        if is_folder(folder / "train"):
            return _class_folders(name, folder, split, memo)
    if download:
        return Cifar(name, root, split=split, download=True)
    archive = next((f for f in (root / _ARCHIVES[name], root / name / _ARCHIVES[name]) if f.is_file()), None)
    if archive is not None:
        raise DataError(f"{name}: found only the archive {archive}; unpack it, or let --download check and unpack it")
    raise DataError(
        f"{name} is not under {root}: no {_OFFICIAL[name]}/ and no train/<class>/ folders; "
        "name its folder with --root (or HJEPA_DATA), or fetch the official files with --download"
    )


def _class_folders(name: str, folder: Path, split: str, memo: Path | None) -> ImageDataset:
    copy = ImageFolder(name, folder, split=split, memo=memo)
    expected = {"cifar10": 10, "cifar100": 100}[name]
    if len(copy.class_names) != expected:
        raise DataError(
            f"{split_folder(folder, 'train')} has {len(copy.class_names)} of {name}'s {expected} classes "
            f"({first_few(copy.class_names)}); complete the copy, or name it folder:{folder}"
        )
    if len(copy) != NUM_IMAGES[split]:
        copy.notes = (
            f"this copy holds {len(copy):,} of {name}'s {NUM_IMAGES[split]:,} {split} images; "
            "do not compare its numbers with published ones",
        )
    return copy

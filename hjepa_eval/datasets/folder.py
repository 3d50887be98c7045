"""Class folders: `ROOT/{train,val|test}/<class>/<image>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from hjepa_eval.datasets.images import check_classes, decode
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.fingerprint import fingerprint_files

_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


class ImageFolder(ImageDataset):
    """Images in one folder per class; the class names are the folder names of the train split, sorted."""

    def __init__(self, name: str, root: Path, split: str, *, memo: Path | None = None) -> None:
        """List one split and fingerprint its content.

        Args:
            name: the dataset's name in results.
            root: folder that holds `train/` and `test/` or `val/`.
            split: `train` or `test`.
            memo: folder for remembered fingerprints.

        Raises:
            DataError: the folder, a split or a class is missing or empty, or test has a class that train lacks.
        """
        self.name = name
        self.split = split
        self.folder = split_folder(root, split)
        self.class_names = class_folders(split_folder(root, "train"))
        if split == "test":
            extra = sorted(set(class_folders(self.folder)) - set(self.class_names))
            if extra:
                raise DataError(f"{self.folder} has classes that train lacks: {first_few(extra)}; make them agree")
        names, stats, labels = self._list_files()
        order = interleave(labels)
        self.labels = labels[order]
        self._names = [names[position] for position in order]
        check_classes(self.class_names, labels, str(self.folder))
        self.fingerprint = fingerprint_files(self.folder, self._names, [stats[position] for position in order], memo)

    def _list_files(self) -> tuple[list[str], list[os.stat_result], np.ndarray]:
        names, stats, labels = [], [], []
        for label, class_name in enumerate(self.class_names):
            folder = self.folder / class_name
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
            for entry in entries:
                if entry.is_file() and not entry.name.startswith("."):
                    names.append(f"{class_name}/{entry.name}")
                    stats.append(entry.stat())
                    labels.append(label)
        return names, stats, np.asarray(labels, dtype=np.int64)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the file cannot be read or decoded; the message names it.
        """
        path = self.folder / self._names[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        return decode(content, str(path))


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        DataError: the root or the split does not exist.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}; give the folder that holds train/ and test/ (or val/)")
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in _SPLIT_FOLDERS[split])
    raise DataError(f"{root} has no {wanted} folder; expected {root}/{_SPLIT_FOLDERS[split][0]}/<class>/<image>")


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a split's folder, sorted.

    Raises:
        DataError: there are none.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    return tuple(names)


def has_class_folders(root: Path, class_names: Sequence[str]) -> bool:
    """Tell whether `root/train` holds a folder for at least one of the class names."""
    return any((root / "train" / name).is_dir() for name in class_names)

"""Class folders: `ROOT/{train,val|test}/<class>/<image>`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from torch import Tensor

from hjepa_eval.datasets.decoding import decode
from hjepa_eval.datasets.images import check_classes
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.fingerprint import fingerprint_files

_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


class ImageFolder(ImageDataset):
    """Images in one folder per class; the class names are the folder names of the train split, sorted.

    Every file of a class folder is an image of it, but for hidden ones (`.name`). What cannot be opened, such as a
    link that leads nowhere, is listed all the same and fails in `image`: the user decides whether to skip it.
    """

    def __init__(self, name: str, root: Path, *, split: str, memo: Path | None = None) -> None:
        """List one split and fingerprint its content.

        Args:
            name: the dataset's name in results.
            root: folder that holds `train/` and `test/` or `val/`.
            split: `train` or `test`.
            memo: folder for remembered fingerprints.

        Raises:
            DataError: the folder, a split or a class is missing, empty or not to be listed, a class holds a folder,
                or test has a class that train lacks.
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
        self._names: list[str] = [names[position] for position in order]
        check_classes(self.class_names, labels, where=str(self.folder))
        in_order = [stats[position] for position in order]
        self.fingerprint = fingerprint_files(self.folder, self._names, stats=in_order, memo=memo)

    def _list_files(self) -> tuple[list[str], list[os.stat_result], np.ndarray]:
        names, stats, labels, nested = [], [], [], []
        for label, class_name in enumerate(self.class_names):
            folder = self.folder / class_name
            for entry in _visible(folder) if is_folder(folder) else []:
                status = _status(entry)
                if stat.S_ISDIR(status.st_mode):
                    nested.append(f"{class_name}/{entry.name}")
                names.append(f"{class_name}/{entry.name}")
                stats.append(status)
                labels.append(label)
        if nested:
            raise DataError(
                f"{self.folder}: folders inside a class: {first_few(nested)}; move their images into the class folder, "
                "or move them away"
            )
        return names, stats, np.asarray(labels, dtype=np.int64)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the file cannot be read or decoded; the message names it.
        """
        path = self.folder / self._names[index]
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{path} is no regular file")
            content = path.read_bytes()
        except OSError as error:
            link = f" (a link to {os.readlink(path)})" if os.path.islink(path) else ""
            raise DataError(f"cannot read {path}{link}: {error.strerror}") from None
        return decode(content, str(path))

    def image_name(self, index: int) -> str:
        """Return the name of image `index` as `<class>/<file>`."""
        return self._names[index]


def is_folder(path: Path) -> bool:
    """Tell whether `path` is a folder.

    Raises:
        DataError: that cannot be told, for want of permission.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"cannot look at {path}: {error.strerror}; check its permissions") from None


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        DataError: the root or the split does not exist.
    """
    if not is_folder(root):
        raise DataError(f"no folder {root}; give the folder that holds train/ and test/ (or val/)")
    for name in _SPLIT_FOLDERS[split]:
        if is_folder(root / name):
            return root / name
    wanted = " or ".join(f"{name}/" for name in _SPLIT_FOLDERS[split])
    raise DataError(f"{root} has no {wanted} folder; expected {root}/{_SPLIT_FOLDERS[split][0]}/<class>/<image>")


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a split's folder, sorted.

    Raises:
        DataError: there are none, the folder cannot be listed, or a class is a link that leads nowhere.
    """
    names = []
    for entry in _visible(folder):
        mode = _status(entry).st_mode
        if stat.S_ISLNK(mode):
            raise DataError(f"{entry.path} is a link that leads nowhere; mend it or remove it")
        if stat.S_ISDIR(mode):
            names.append(entry.name)
    if not names:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    return tuple(names)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check its permissions") from None


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """Return the status of what an entry leads to, or of the link itself when it leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        pass
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as error:
        raise DataError(f"cannot look at {entry.path}: {error.strerror}; check its permissions") from None

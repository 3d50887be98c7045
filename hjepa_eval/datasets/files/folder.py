"""Class folders: `ROOT/{train,val|test}/<class>/<image>`, read when asked for, fingerprinted by their content."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.datasets.files.listing import HOW_TO_FOLLOW, FileList, Links, is_folder, statuses, visible
from hjepa_eval.datasets.images import check_classes
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.memo import fingerprint_files

if TYPE_CHECKING:
    from torch import Tensor

# In the name of a file, these would break a message in two.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r"}


class ImageFiles(ImageDataset):
    """Labelled image files below a folder, however they are laid out.

    What cannot be opened, such as a link that leads nowhere or out of the data set, is listed all the same and fails
    in `image`: the user decides whether to skip it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        files: FileList,
        *,
        split: str,
        class_names: tuple[str, ...],
        links: Links,
        memo: Path | None,
    ) -> None:
        """Put the files in order and fingerprint their names and content.

        Args:
            name: the dataset's name in results.
            folder: what the names of the files are relative to.
            files: what was found there.
            split: `train` or `test`.
            class_names: name of each label.
            links: which links are followed.
            memo: folder for remembered fingerprints.

        Raises:
            DataError: a class is empty.
        """
        labels = np.asarray(files.labels, dtype=np.int64)
        check_classes(class_names, labels, where=str(folder))
        order = interleave(labels)
        self.name = name
        self.split = split
        self.folder = folder
        self.class_names = class_names
        self.labels = labels[order]
        self._names = [files.names[place] for place in order.tolist()]
        self._outside, self._links = files.outside, links
        states = np.concatenate(files.states)[order]
        self.fingerprint = fingerprint_files(folder, self._names, states=states, memo=memo)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the file cannot be read or decoded, or is a link out of the data set; the message names it.
        """
        path = self.folder / self._names[index]
        shown = str(path).translate(_CONTROLS)
        link = f"to {os.readlink(path).translate(_CONTROLS)}" if os.path.islink(path) else ""
        if self._names[index] in self._outside:
            raise DataError(f"{shown} is a link that leaves {self._links.root} ({link}); {HOW_TO_FOLLOW}")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{shown} is no regular file")
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {shown}{link and f' (a link {link})'}: {error.strerror}") from None
        return decode(content, shown)

    def image_name(self, index: int) -> str:
        """Return the name of image `index` as `<class>/<file>`."""
        return f"{self.class_names[self.labels[index]]}/{self._names[index].rpartition('/')[2]}"

    def source_name(self, index: int) -> str:
        """Return the path of image `index` from the folder that holds the splits, such as `train/cat/1.png`."""
        return f"{self.folder.name}/{self._names[index]}"


TEST_FOLDERS = ("test", "val")


class ImageFolder(ImageFiles):
    """Images in one folder per class; the class names are the folder names of the train split, sorted.

    Every file of a class folder is an image of it, but for hidden ones (`.name`).
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        split: str,
        memo: Path | None = None,
        classes: Sequence[str] | None = None,
        test_folders: Sequence[str] = TEST_FOLDERS,
        follow_links: bool = False,
    ) -> None:
        """List one split and fingerprint its content.

        Args:
            name: the dataset's name in results.
            root: folder that holds `train/` and `test/` or `val/`.
            split: `train` or `test`.
            memo: folder for remembered fingerprints.
            classes: leave out all other class folders.
            test_folders: names that the folder of the test split may have, the first that is there.
            follow_links: read links that lead out of `root`.

        Raises:
            DataError: the folder, a split or a class is missing, empty or not to be listed, a class holds a folder or
                is a link out of the root, or test has a class that train lacks.
        """
        links = Links(root, follow=follow_links)
        folder = split_folder(root, split, test_folders=test_folders)
        train = split_folder(root, "train")
        names = class_folders(train, links, only=classes)
        if split == "test":
            extra = sorted(set(class_folders(folder, links, only=classes)) - set(names))
            if extra:
                raise DataError(f"{folder} has classes that train lacks: {first_few(extra)}; make them agree")
        files = FileList()
        for label, class_name in enumerate(names):
            add_folder(files, folder, class_name, label, links=links)
        check_flat(files, folder)
        super().__init__(name, folder, files, split=split, class_names=names, links=links, memo=memo)


def add_folder(files: FileList, folder: Path, part: str, label: int, *, links: Links) -> None:
    """Add all files in `folder/part`, if there is such a folder."""
    if is_folder(folder / part):
        links.check_folder(folder / part)
        names = visible(folder / part)
        files.add(folder, part, names, labels=[label] * len(names), links=links)


def check_flat(files: FileList, folder: Path) -> None:
    """Check that no class holds a folder.

    Raises:
        DataError: one does.
    """
    if files.nested:
        raise DataError(
            f"{folder}: folders inside a class: {first_few(files.nested)}; move their images into the class folder, "
            "or move them away"
        )


def split_folder(root: Path, split: str, *, test_folders: Sequence[str] = TEST_FOLDERS) -> Path:
    """Return the folder of a split.

    Raises:
        DataError: the root or the split does not exist.
    """
    if not is_folder(root):
        raise DataError(f"no folder {root}; give the folder that holds train/ and test/ (or val/)")
    names = ("train",) if split == "train" else test_folders
    for name in names:
        if is_folder(root / name):
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise DataError(f"{root} has no {wanted} folder; expected {root}/{names[0]}/<class>/<image>")


def class_folders(folder: Path, links: Links, *, only: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the class folders in a split's folder, sorted; of those in `only`, if given.

    Raises:
        DataError: there are none, the folder cannot be listed, or it or a class is a link that leads nowhere or out
            of the data set.
    """
    links.check_folder(folder)
    wanted = None if only is None else frozenset(only)
    entries = [name for name in visible(folder) if wanted is None or name in wanted]
    names = []
    for name, status in zip(entries, statuses(folder, entries), strict=True):
        if stat.S_ISLNK(status.st_mode):
            raise DataError(f"{folder / name} is a link that leads nowhere; mend it or remove it")
        if stat.S_ISDIR(status.st_mode):
            links.check_folder(folder / name)
            names.append(name)
    if not names:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    return tuple(names)

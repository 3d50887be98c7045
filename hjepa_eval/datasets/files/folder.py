"""Class folders: `ROOT/{train,val|test}/<class>/<image>`, read when asked for, fingerprinted by their content."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.datasets.files.factor_table import read_factor_table
from hjepa_eval.datasets.files.listing import HOW_TO_FOLLOW, FileList, Links, is_folder, statuses, visible
from hjepa_eval.datasets.files.masks import FolderMasks, image_size
from hjepa_eval.datasets.protocol import ImageDataset, check_unchanged, interleave
from hjepa_eval.errors import DataError, MachineError, NoSplitError, first_few, lacks_files
from hjepa_eval.features.fingerprint import read_regular
from hjepa_eval.features.memo import fingerprint_files

if TYPE_CHECKING:
    from torch import Tensor

# In the name of a file, these would break a message in two.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r"}


TEST_FOLDERS = ("test", "val")


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
        """
        labels = np.asarray(files.labels, dtype=np.int64)
        order = interleave(labels)
        self.where = str(folder)
        self.name = name
        self.split = split
        self.folder = folder
        self.class_names = class_names
        self.labels = labels[order]
        self._names = [files.names[place] for place in order.tolist()]
        self._outside, self._links = files.outside, links
        states = np.concatenate(files.states)[order]
        self.fingerprint, self._digests = fingerprint_files(folder, self._names, states=states, memo=memo)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the file cannot be read or decoded, or is a link out of the data set; the message names it.
            ChangedError: it is not what it was when the fingerprint was taken.
            MachineError: too many files are open.
        """
        path = self.folder / self._names[index]
        shown = str(path).translate(_CONTROLS)
        link = f"to {os.readlink(path).translate(_CONTROLS)}" if os.path.islink(path) else ""
        if self._names[index] in self._outside:
            raise DataError(f"{shown} is a link that leaves {self._links.root} ({link}); {HOW_TO_FOLLOW}")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{shown} is no regular file")
            content = read_regular(path)
        except OSError as error:
            kind = MachineError if lacks_files(error) else DataError
            raise kind(f"cannot read {shown}{link and f' (a link {link})'}: {error.strerror}") from None
        check_unchanged(content, self._digests[index], name=shown)
        return decode(content, shown)

    def image_name(self, index: int) -> str:
        """Return the name of image `index` as `<class>/<file>`."""
        file = self._names[index].rpartition("/")[2]
        return f"{self.class_names[self.labels[index]]}/{file}" if self.labelled else file

    def digests(self) -> NDArray[np.uint64]:
        """Return `content_digest` of each file's bytes [N]; 0 for one that could not be read."""
        return self._digests

    @cached_property
    def _from_root(self) -> tuple[Path, list[str]]:
        """The folder that holds the splits, and the images' paths from there."""
        root = self.folder.parent if self.folder.name in ("train", *TEST_FOLDERS) else self.folder
        names = self._names if root == self.folder else [f"{self.folder.name}/{name}" for name in self._names]
        return root, names

    @cached_property
    def _factors(self) -> dict[str, Factor]:
        return read_factor_table(*self._from_root)

    @cached_property
    def _folder_masks(self) -> FolderMasks:
        return FolderMasks(*self._from_root)

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Names in `masks/classes.txt` beside the splits; none where there are no masks.

        Raises:
            DataError: they cannot be read.
        """
        return self._folder_masks.classes

    def maps(self, index: int) -> Mapping[str, NDArray[np.uint8]]:
        """Return the mask of image `index`, from `masks/` beside the splits, as `class`.

        Raises:
            DataError: there are none, it is missing, cannot be read, or is of another size than its image.
        """
        if not self._folder_masks.known:
            return super().maps(index)
        return {"class": self._folder_masks.read(index, image=image_size(self.folder / self._names[index]))}

    @property
    def factors(self) -> dict[str, Factor]:
        """What `factors.csv` beside the splits says of the images; nothing where there is no such file.

        Raises:
            DataError: it cannot be read, or names files that are not there.
        """
        return self._factors

    def source_name(self, index: int) -> str:
        """Return the path of image `index` from the folder that holds the splits, such as `train/cat/1.png`."""
        return f"{self.folder.name}/{self._names[index]}"


class ImageFolder(ImageFiles):
    """Images in one folder per class; the class names are the folder names of the train split, sorted.

    Every file of a class folder is an image of it, but for hidden ones (`.name`). Names are compared, and given, in the
    composed Unicode form (NFC): macOS writes `é` as two characters, and a list or the other split may have it as one.
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
        single: bool = False,
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
            single: `root` itself holds the class folders, of train.

        Raises:
            DataError: the folder or a split is missing, empty or not to be listed, a class holds a folder or is a link
                out of the root, or two class folders have one name.
        """
        links = Links(root, follow=follow_links)
        folder = root if single else split_folder(root, split, test_folders=test_folders)
        train = root if single else split_folder(root, "train")
        names = composed(class_folders(train, links, only=classes), where=train)
        parts = names if folder == train else composed(class_folders(folder, links, only=classes), where=folder)
        files = FileList()
        for label, class_name in enumerate(names):
            if class_name in parts:
                add_folder(files, folder, parts[class_name], label, links=links)
        check_flat(files, folder)
        super().__init__(name, folder, files, split=split, class_names=tuple(names), links=links, memo=memo)
        self.foreign = tuple(sorted(set(parts) - set(names)))


def composed(names: Sequence[str], *, where: Path) -> dict[str, str]:
    """Return folder names by their composed Unicode form (NFC), in their order.

    Raises:
        DataError: two are one name in two forms.
    """
    forms: dict[str, str] = {}
    for name in names:
        form = unicodedata.normalize("NFC", name)
        if form in forms:
            raise DataError(f"{where} has two folders called {form}, in two Unicode forms; join them")
        forms[form] = name
    return forms


_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp")


def load_folder(
    name: str,
    root: Path,
    *,
    split: str,
    memo: Path | None,
    follow_links: bool,
    single: bool = False,
    unlabelled: bool = False,
) -> ImageFiles:
    """Return one split of the user's own images.

    Args:
        name: the dataset's name in results.
        root: folder that holds `train/` and `test/` or `val/`.
        split: `train` or `test`.
        memo: folder for remembered fingerprints.
        follow_links: read links that lead out of `root`.
        single: where there is no `train/`, `root` itself is the train split.
        unlabelled: images that lie in no class folder will do: `root/train/<image>` or `root/<image>`.

    Raises:
        DataError: as `ImageFolder`; or the images have no classes and are to have some.
    """
    links = Links(root, follow=follow_links)
    parted = is_folder(root / "train")
    folder = root / "train" if parted else root
    loose = _loose_images(folder, links) if split == "train" and is_folder(folder) else []
    if loose and not unlabelled:
        raise DataError(
            f"{folder} holds {len(loose):,} images without classes; probes need labels, so sort them into "
            f"{folder}/<class>/<image> (hjepa pretrain takes them as they are)"
        )
    if not loose:
        whole = not parted and (single or unlabelled)
        return ImageFolder(name, root, split=split, memo=memo, follow_links=follow_links, single=whole)
    files = FileList()
    files.add(folder, "", loose, labels=[-1] * len(loose), links=links)
    return ImageFiles(name, folder, files, split=split, class_names=(), links=links, memo=memo)


def _loose_images(folder: Path, links: Links) -> list[str]:
    """Return the image files in a folder that holds no folders; none where it holds one."""
    links.check_folder(folder)
    names = visible(folder)
    if any(stat.S_ISDIR(status.st_mode) for status in statuses(folder, names)):
        return []
    return [name for name in names if name.lower().endswith(_IMAGE_ENDINGS)]


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
        DataError: the root does not exist.
        NoSplitError: the split does not.
    """
    if not is_folder(root):
        raise DataError(f"no folder {root}; give the folder that holds train/ and test/ (or val/)")
    names = ("train",) if split == "train" else test_folders
    for name in names:
        if is_folder(root / name):
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise NoSplitError(
        f"{root} has no {wanted} folder; expected {root}/{names[0]}/<class>/<image>; "
        "or add ?test=0.2 to the data set's name, to test on a fifth of each class"
    )


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

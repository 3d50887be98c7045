"""ImageNet-1k, and ImageNet-100 as the 100 classes of it that CMC drew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hjepa_eval.datasets.files.folder import ImageFolder, class_folders, split_folder
from hjepa_eval.datasets.files.listing import Links, visible
from hjepa_eval.datasets.named.copies import check_class_count, count_notes, find_copy
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.subsets.lists import read_class_list
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.fingerprint import hash_json

NUM_IMAGES: Mapping[str, int] = {"train": 1_281_167, "test": 50_000}
NUM_IMAGES_100: Mapping[str, int] = {"train": 126_689, "test": 5_000}
NUM_CLASSES = 1000
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_FOLDERS = ("imagenet1k", "imagenet", _KAGGLE, f"imagenet1k/{_KAGGLE}", f"imagenet/{_KAGGLE}")
_LAYOUT = "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"
_WNID = re.compile(r"n\d{8}")


def load_imagenet1k(root: Path, *, split: str, memo: Path | None, follow_links: bool = False) -> ImageDataset:
    """Return ImageNet-1k (ILSVRC 2012) from class folders; `test` is its validation split.

    Raises:
        DataError: it is not there, has other than 1,000 classes, or its validation images are not sorted.
    """
    folder = find_copy("imagenet1k", root, folders=_FOLDERS, layout=_LAYOUT)
    links = Links(folder, follow=follow_links)
    check_class_count("imagenet1k", folder, expected=NUM_CLASSES, links=links)
    train = split_folder(folder, "train")
    foreign = [name for name in class_folders(train, links) if not _WNID.fullmatch(name)]
    if foreign:
        raise DataError(
            f"{train} has {len(foreign)} classes whose names are no WordNet ids such as n01440764: {first_few(foreign)}"
        )
    _check_sorted(folder, split)
    dataset = ImageFolder(
        "imagenet1k", folder, split=split, memo=memo, test_folders=("val",), follow_links=follow_links
    )
    dataset.notes = count_notes(dataset, NUM_IMAGES)
    return dataset


def load_imagenet100(root: Path, *, split: str, memo: Path | None, follow_links: bool = False) -> ImageDataset:
    """Return ImageNet-100 from the folders of ImageNet-1k, or from a folder that has these 100 classes only.

    Source: Tian, Krishnan and Isola, "Contrastive multiview coding", 2019 (HobbitLong/CMC, imagenet100.txt).

    Raises:
        DataError: it is not there, lacks some of the classes, or its validation images are not sorted.
    """
    folder = find_copy("imagenet100", root, folders=("imagenet100", *_FOLDERS), layout=_LAYOUT)
    listed = read_class_list("cmc")
    train = split_folder(folder, "train")
    missing = sorted(set(listed.names) - set(visible(train)))
    if missing:
        raise DataError(
            f"{train} lacks {len(missing)} of imagenet100's {len(listed.names)} classes: {first_few(missing)}; "
            "there are several subsets of 100 classes: this one is CMC's, for another name folder:PATH or ?classes=FILE"
        )
    _check_sorted(folder, split)
    dataset = ImageFolder(
        "imagenet100",
        folder,
        split=split,
        memo=memo,
        classes=listed.names,
        test_folders=("val",),
        follow_links=follow_links,
    )
    dataset.fingerprint = hash_json({"files": dataset.fingerprint, "classes": listed.sha256})
    which = f"imagenet100 is the {len(listed.names)} classes of CMC's imagenet100.txt (sha256 {listed.sha256[:16]})"
    dataset.notes = (which, *count_notes(dataset, NUM_IMAGES_100))
    return dataset


def _check_sorted(folder: Path, split: str) -> None:
    """Check that the validation images lie in class folders, if they are asked for."""
    if split == "train":
        return
    val = split_folder(folder, split, test_folders=("val",))
    flat = [name for name in visible(val) if name.startswith("ILSVRC2012_val_")]
    if flat:
        raise DataError(
            f"{val} holds {len(flat):,} validation images outside of class folders, such as {flat[0]}; move each into "
            f"{val}/<wnid>/ (valprep.sh of soumith/imagenetloader.torch, run in that folder, does it)"
        )

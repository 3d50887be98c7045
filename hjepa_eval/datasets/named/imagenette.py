"""Imagenette: ten classes of ImageNet that are easy to tell apart, in class folders, in three sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hjepa_eval.datasets.files.folder import ImageFolder, class_folders, split_folder
from hjepa_eval.datasets.files.listing import Links
from hjepa_eval.datasets.named.copies import check_class_set, count_notes, find_copy
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError

NUM_IMAGES: Mapping[str, int] = {"train": 9_469, "test": 3_925}
CLASSES: Mapping[str, str] = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
_FOLDERS = ("imagenette", "imagenette2", "imagenette2-320", "imagenette2-160")
_SMALLER = (160, 320)
_LOOKED_AT = 3


def load_imagenette(root: Path, *, split: str, memo: Path | None, follow_links: bool = False) -> ImageDataset:
    """Return Imagenette (its second version) from class folders; `test` is its validation split.

    Source: github.com/fastai/imagenette.

    Raises:
        DataError: it is not there, or has other classes.
    """
    folder = find_copy("imagenette", root, folders=_FOLDERS, layout="train/<wnid>/*.JPEG and val/<wnid>/*.JPEG")
    train = split_folder(folder, "train")
    found = class_folders(train, Links(folder, follow=follow_links))
    check_class_set("imagenette", train, found=found, expected=CLASSES)
    dataset = ImageFolder(
        "imagenette", folder, split=split, memo=memo, test_folders=("val",), follow_links=follow_links
    )
    dataset.notes = (*count_notes(dataset, NUM_IMAGES), *_size_note(dataset))
    return dataset


def _size_note(dataset: ImageDataset) -> tuple[str, ...]:
    """Return a note if this is one of the two smaller copies, as the short sides of the first images say."""
    sides = set()
    for index in range(min(_LOOKED_AT, len(dataset))):
        try:
            sides.add(min(dataset.image(index).shape[1:]))
        except DataError:
            return ()  # Whoever reads the images will hear of it.
    if len(sides) == 1 and (side := sides.pop()) in _SMALLER:
        return (f"imagenette's {side} px copy: the short sides of its images are {side} pixels",)
    return ()

"""Tiny ImageNet in its official layout: 200 classes, 64 x 64 pixels, validation labels in a text file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hjepa_eval.datasets.files.folder import ImageFiles, add_folder, check_flat, class_folders
from hjepa_eval.datasets.files.listing import FileList, Links, is_folder, visible
from hjepa_eval.datasets.named.copies import check_class_set, count_notes, find_copy
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, first_few
from hjepa_eval.features.fingerprint import hash_json

NUM_IMAGES: Mapping[str, int] = {"train": 100_000, "test": 10_000}
NUM_CLASSES = 200
_FOLDERS = ("tinyimagenet", "tiny-imagenet-200", "tinyimagenet/tiny-imagenet-200")
_LAYOUT = "wnids.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt"


def load_tinyimagenet(root: Path, *, split: str, memo: Path | None, follow_links: bool = False) -> ImageDataset:
    """Return Tiny ImageNet (cs231n.stanford.edu/tiny-imagenet-200.zip); `test` is its validation split.

    Raises:
        DataError: it is not there, its classes are not those of wnids.txt, or validation images have no label.
    """
    folder = find_copy("tinyimagenet", root, folders=_FOLDERS, layout=_LAYOUT)
    links = Links(folder, follow=follow_links)
    names = tuple(sorted(_lines(folder / "wnids.txt")))
    if len(set(names)) != NUM_CLASSES:
        raise DataError(
            f"{folder / 'wnids.txt'} names {len(set(names))} classes; expected tinyimagenet's {NUM_CLASSES}"
        )
    found = class_folders(folder / "train", links)
    check_class_set("tinyimagenet", folder / "train", found=found, expected=dict.fromkeys(names, ""))
    files = FileList()
    part = folder / ("train" if split == "train" else "val")
    if split == "train":
        for label, name in enumerate(names):
            add_folder(files, part, f"{name}/images", label, links=links)
    else:
        _add_validation(files, part, names, links)
    check_flat(files, part)
    dataset = ImageFiles("tinyimagenet", part, files, split=split, class_names=names, links=links, memo=memo)
    # The names of the files alone do not say the labels.
    content = {"files": dataset.fingerprint, "classes": names, "labels": dataset.labels.tolist()}
    dataset.fingerprint = hash_json(content)
    dataset.notes = count_notes(dataset, NUM_IMAGES)
    return dataset


def _add_validation(files: FileList, val: Path, names: tuple[str, ...], links: Links) -> None:
    """Add the images of the validation split with the labels of its text file."""
    links.check_folder(val)
    if not is_folder(val / "images"):
        raise DataError(f"{val} has no images/ folder; expected the official layout: {_LAYOUT}")
    annotations = val / "val_annotations.txt"
    wnid_of = dict(line.split("\t")[:2] for line in _lines(annotations) if "\t" in line)
    number = {name: label for label, name in enumerate(names)}
    foreign = sorted(set(wnid_of.values()) - set(number))
    if foreign:
        raise DataError(f"{annotations} names classes that are not in wnids.txt: {first_few(foreign)}")
    links.check_folder(val / "images")
    images = visible(val / "images")
    without = [name for name in images if name not in wnid_of]
    if without:
        raise DataError(f"{annotations} has no label for {len(without):,} images: {first_few(without)}")
    files.add(val, "images", images, labels=[number[wnid_of[name]] for name in images], links=links)


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file of the data set that are not blank."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; expected the official layout: {_LAYOUT}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text; fetch tinyimagenet again") from None

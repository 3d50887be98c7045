"""Published data sets with a mask beside each image: VOC 2012, Oxford-IIIT Pets and ADE20k, as they are unpacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.files.folder import ImageFiles
from hjepa_eval.datasets.files.listing import FileList, Links, is_folder, visible
from hjepa_eval.datasets.files.masks import Renumber, by_table, read_mask
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Of the authors: 1 the pet, 2 background, 3 not classified, which is the border.
_TRIMAP = {2: 0, 1: 1}


@dataclass(frozen=True)
class Masks:
    """Where the masks of a data set lie and what their numbers mean.

    Attributes:
        folder: of the masks; an image's mask has its name with `.png`.
        renumber: from the file's numbers to those of `classes`.
        classes: names.
    """

    folder: Path
    renumber: Renumber
    classes: tuple[str, ...]


class SegmentedImages(ImageFiles):
    """Image files of one folder, with masks of the same names in another."""

    def __init__(
        self, name: str, folder: Path, files: Sequence[str], labels: Sequence[int], masks: Masks, **more: object
    ) -> None:
        """List the images of a split and fingerprint their content.

        Args:
            name: of the data set.
            folder: of the images.
            files: their names.
            labels: class of each image.
            masks: of each.
            more: `split`, `class_names` and `memo`, as `ImageFiles` takes them.
        """
        links = Links(folder)
        listed = FileList()
        listed.add(folder, "", files, labels=list(labels), links=links)
        super().__init__(name, folder, listed, links=links, **more)  # type: ignore[arg-type]
        self._masks = masks

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Names of the masks' classes."""
        return self._masks.classes

    def maps(self, index: int) -> Mapping[str, NDArray[np.uint8]]:
        """Return the mask of image `index` as `class`.

        Raises:
            DataError: it is missing or cannot be read.
        """
        file = (self._masks.folder / self._names[index]).with_suffix(".png")
        return {"class": self._masks.renumber(read_mask(file))}


def _folder(name: str, root: Path, folders: Sequence[str], inside: str) -> Path:
    """Return the folder that holds `inside`: `root` itself, or the first of `root/<folder>`.

    Raises:
        DataError: none does.
    """
    for folder in (root, *(root / each for each in folders)):
        if is_folder(folder / inside):
            return folder
    raise DataError(
        f"{name} is not under {root}: expected {inside} there or in {root / folders[0]}; name it with --root"
    )


def _lines(file: Path) -> list[list[str]]:
    """Return the words of each line that is neither empty nor a comment.

    Raises:
        DataError: the file cannot be read, or has none.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}; complete the copy") from None
    kept = [words for words in lines if words and not words[0].startswith("#")]
    if not kept:
        raise DataError(f"{file} names no images; complete the copy")
    return kept


def load_voc2012(root: Path, *, split: str, memo: Path | None) -> ImageDataset:
    """Return the segmented images of PASCAL VOC 2012; an image's class is that of most of its pixels with an object.

    Raises:
        DataError: it is not there, or a mask cannot be read.
    """
    folder = _folder("voc2012", root, ("VOCdevkit/VOC2012", "VOC2012", "voc2012"), "SegmentationClass")
    part = {"train": "train", "test": "val"}[split]
    names = [words[0] for words in _lines(folder / "ImageSets" / "Segmentation" / f"{part}.txt")]
    masks = Masks(folder / "SegmentationClass", by_table({n: n for n in range(len(VOC_CLASSES))}), VOC_CLASSES)
    labels = []
    for name in names:
        values = masks.renumber(read_mask(masks.folder / f"{name}.png"))
        counts = np.bincount(values[(values != 255) & (values > 0)], minlength=len(VOC_CLASSES))
        if not counts.any():
            raise DataError(f"{masks.folder / name}.png shows no object; it is no mask of VOC 2012")
        labels.append(int(counts[1:].argmax()))
    files = [f"{name}.jpg" for name in names]
    return SegmentedImages(
        "voc2012", folder / "JPEGImages", files, labels, masks, split=split, class_names=VOC_CLASSES[1:], memo=memo
    )


def load_pets(root: Path, *, split: str, memo: Path | None) -> ImageDataset:
    """Return Oxford-IIIT Pets with trimaps as masks: the pet, the background, and a border that takes no part.

    Raises:
        DataError: it is not there, or its lists cannot be read.
    """
    folder = _folder("pets", root, ("pets", "oxford-iiit-pet"), "annotations/trimaps")
    of_split = {part: _lines(folder / "annotations" / f"{part}.txt") for part in ("trainval", "test")}
    names: dict[int, str] = {}
    for words in of_split["trainval"]:
        if len(words) < 2 or not words[1].isdigit():
            raise DataError(f"{folder}/annotations/trainval.txt: expected NAME CLASS SPECIES BREED, found {words}")
        names.setdefault(int(words[1]), words[0].rpartition("_")[0])
    numbers = {number: label for label, number in enumerate(sorted(names))}
    lines = of_split["trainval" if split == "train" else "test"]
    unknown = [words for words in lines if len(words) < 2 or not words[1].isdigit() or int(words[1]) not in numbers]
    if unknown:
        raise DataError(f"{folder}/annotations has the class of {' '.join(unknown[0])}, which train lacks")
    labels = [numbers[int(words[1])] for words in lines]
    masks = Masks(folder / "annotations" / "trimaps", by_table(_TRIMAP), ("background", "pet"))
    files = [f"{words[0]}.jpg" for words in lines]
    classes = tuple(names[number] for number in sorted(names))
    return SegmentedImages("pets", folder / "images", files, labels, masks, split=split, class_names=classes, memo=memo)


def load_ade20k(root: Path, *, split: str, memo: Path | None) -> ImageDataset:
    """Return ADE20k's benchmark of 150 classes; its images have no class of their own, so all are of one.

    Raises:
        DataError: it is not there, or its list of classes cannot be read.
    """
    folder = _folder("ade20k", root, ("ADEChallengeData2016", "ade20k"), "annotations/training")
    part = {"train": "training", "test": "validation"}[split]
    rows = (
        (folder / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()
        if (folder / "objectInfo150.txt").is_file()
        else []
    )
    named = [row.split("\t")[-1].split(",")[0].strip() for row in rows[1:] if row.strip()]
    if len(named) != 150:
        raise DataError(f"{folder}/objectInfo150.txt names {len(named)} classes, expected 150; complete the copy")
    masks = Masks(
        folder / "annotations" / part, by_table({number: number - 1 for number in range(1, 151)}), tuple(named)
    )
    files = visible(folder / "images" / part)
    return SegmentedImages(
        "ade20k",
        folder / "images" / part,
        files,
        [0] * len(files),
        masks,
        split=split,
        class_names=("scene",),
        memo=memo,
    )

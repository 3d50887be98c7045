"""What a dataset is: labelled images of one split, in a fixed order, with a fingerprint of their content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from hjepa_eval.errors import ChangedError, DataError, first_few
from hjepa_eval.features.memo import content_digest

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa_eval.datasets.factors import Factor


def numbered_classes(labels: NDArray[np.int64], *, where: str, remedy: str) -> tuple[str, ...]:
    """Return the class numbers 0 to C - 1 in train labels [N] as names.

    Args:
        labels: none below 0.
        where: the train split, for messages.
        remedy: what else can be done if numbers are missing, for messages.

    Raises:
        DataError: some number below the highest is of no image.
    """
    found = np.unique(labels)
    if found[-1] != len(found) - 1:
        raise DataError(
            f"the {len(found)} class numbers of {where} run from {found[0]} to {found[-1]}; "
            f"expected 0 to {len(found) - 1}, {remedy}"
        )
    return tuple(str(label) for label in found)


def check_class_numbers(labels: NDArray[np.int64], class_names: Sequence[str], *, sample: Callable[[int], str]) -> None:
    """Check that labels [N] are numbers of the classes.

    Args:
        labels: none below 0.
        class_names: those of train.
        sample: tells for an index into `labels` what to call that sample in messages.

    Raises:
        DataError: a label is of no class.
    """
    outside = np.flatnonzero(labels >= len(class_names))
    if len(outside):
        raise DataError(
            f"{sample(int(outside[0]))} has label {labels[outside[0]]}, but train has {len(class_names)} classes, "
            "numbered from 0"
        )


class ImageDataset(ABC):
    """Labelled images of one split.

    Images are interleaved by class (`interleave`), so the first N are a balanced part of the whole and a shorter
    `--max-samples` is a prefix of a longer one.

    Attributes:
        name: the dataset's name in results.
        split: `train` or `test`.
        class_names: name of each label.
        labels: int64 `[N]`, each an index into `class_names`.
        fingerprint: sha256 over the order, the labels and the content of all images.
        notes: what a reader of the results must know, such as a copy that is not complete.
        where: how messages call the place of the split.
        foreign: classes of a test split that train lacks; their images are not among these.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    fingerprint: str
    notes: tuple[str, ...] = ()
    where: str = ""
    foreign: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the images have classes; without, every label is -1, and only pretraining has a use for them."""
        return bool(self.class_names)

    @property
    def factors(self) -> Mapping[str, Factor]:
        """What the data set knows of every image beside its class, by name; most know nothing.

        Raises:
            DataError: what it brings cannot be read.
        """
        return {}

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Name of each class number in the map `class` of `maps`; empty where nothing is known of pixels."""
        return ()

    def maps(self, index: int) -> Mapping[str, NDArray[np.uint8]]:
        """Return what is known of each pixel of image `index`, uint8 `[H, W]` by name, H and W the image's own.

        `class` numbers `map_classes`, and 255 is a pixel that takes no part. Some know `instance`, where objects are
        numbered from 1 and 0 is none, and `depth`, which rises towards the viewer.

        Raises:
            DataError: nothing is known, or what is cannot be read or does not fit the image.
        """
        raise DataError(f"{self.name} knows no classes of pixels; take scenes, or folder: with masks/ beside train/")

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """

    def image_name(self, index: int) -> str | None:
        """Return the name of image `index` as `<class>/<file>`, or None if its source has no file names."""
        return None

    def source_name(self, index: int) -> str:
        """Return where image `index` lies in its source: a path with `/` from the data set's root, or `<split>/<row>`.

        Rows are counted from 0 in the source's own order, not in that of the data set.
        """
        return f"{self.split}/{index}"

    def digests(self) -> NDArray[np.uint64]:
        """Return `content_digest` of each image [N]; 0 for one that could not be read.

        Here it is of the pixels; sources whose images are files know it of their bytes since the fingerprint was taken.
        """
        contents = (content_digest(self.image(index).numpy().tobytes()) for index in range(len(self)))
        return np.fromiter(contents, np.uint64, len(self))


def check_unchanged(content: bytes, expected: int, *, name: str) -> None:
    """Check that the bytes about to be decoded are those that the fingerprint is over.

    Args:
        content: of the image.
        expected: its `content_digest` then, 0 if it could not be read.
        name: of the image, for messages.

    Raises:
        ChangedError: they are others.
    """
    if content_digest(content) != int(expected):
        raise ChangedError(f"{name} changed since its dataset was opened; run the same command again")


def check_classes(dataset: ImageDataset) -> None:
    """Check that a split, after all choices, has an image of every class, and none of a class that train lacks.

    Raises:
        DataError: a class is empty or foreign; the message names the first few and the way out.
    """
    way_out = "leave it out with ?classes=FILE, a list of the classes to keep, one a line"
    if dataset.foreign:
        raise DataError(
            f"{dataset.where} has classes that train lacks: {first_few(dataset.foreign)}; make them agree, or {way_out}"
        )
    if dataset.labelled:
        where = f"{dataset.where or dataset.name}, {dataset.split}"
        check_every_class(dataset.labels, dataset.class_names, where=where, remedy=f"add images, or {way_out}")


def check_every_class(labels: NDArray[np.int64], class_names: Sequence[str], *, where: str, remedy: str) -> None:
    """Check that every class has one of the labels [N], all of them numbers of classes.

    Raises:
        DataError: a class is empty; the message names the first few.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"{where}: no images in class {first_few(empty)}; {remedy}")


def class_ranks(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each sample how many samples of its class come before it."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks


def interleave(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order that takes the first sample of each class, then the second of each, and so on."""
    return np.lexsort((labels, class_ranks(labels)))

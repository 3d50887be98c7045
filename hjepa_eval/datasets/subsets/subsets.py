"""Parts of any data set, asked for behind its name: some classes, listed images, a fraction, a number per class."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.datasets.protocol import ImageDataset, class_ranks, interleave
from hjepa_eval.datasets.randomness import derive_seed, uniform_rows
from hjepa_eval.datasets.subsets.lists import NameList, indices_of, read_class_list, read_image_list
from hjepa_eval.errors import DataError, did_you_mean, first_few
from hjepa_eval.features.fingerprint import hash_json

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS: Mapping[str, str] = {
    "classes": "only the classes in this file, one a line; cmc for the 100 of ImageNet-100",
    "images": "train on the images in this file only, one <file> or <class>/<file> a line",
    "fraction": "train on this share of each class, above 0 and up to 1",
    "per_class": "train on this many images of each class",
    "test": "test on this share of each class of train, between 0 and 1, instead of the data set's own test split",
    "seed": "another draw of fraction, per_class or test; 0 if not given",
}


@dataclass(frozen=True)
class Choice:
    """What is taken of a data set; `classes` of both splits, `test` of train for test, all else of train.

    Attributes:
        classes: which classes; None for all.
        images: which train images; None for all.
        fraction: share of each class.
        per_class: images of each class.
        seed: of the draws.
        test: share of each class of train that is test, and not train any more.
    """

    classes: NameList | None = None
    images: NameList | None = None
    fraction: float | None = None
    per_class: int | None = None
    seed: int = 0
    test: float | None = None


class Subset(ImageDataset):
    """Some images of a data set, interleaved by class; within a class they keep the data set's order."""

    def __init__(
        self,
        parent: ImageDataset,
        positions: NDArray[np.int64],
        *,
        classes: NDArray[np.int64],
        split: str,
        name: str,
        identity: Mapping[str, Any],
        notes: Sequence[str],
    ) -> None:
        """Take some images.

        Args:
            parent: the data set.
            positions: sorted, int64 [M], where the images are in it.
            classes: sorted, int64 [C], its labels that are left; all images have one of them.
            split: which split the images are.
            name: of the subset in results.
            identity: what was asked for, as JSON values.
            notes: beside those of the data set.
        """
        labels = np.searchsorted(classes, parent.labels[positions])
        self.name, self.split, self.where = name, split, name
        self.class_names = tuple(parent.class_names[label] for label in classes)
        order = interleave(labels)
        self.labels = labels[order]
        self._parent, self._positions = parent, positions[order]
        taken = hashlib.sha256(self._positions.astype("<i8").tobytes()).hexdigest()
        content = {"parent": parent.fingerprint, "asked": dict(identity), "positions": taken}
        self.fingerprint = hash_json({**content, "class_names": self.class_names})
        self.notes = (*parent.notes, *notes)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """
        return self._parent.image(int(self._positions[index]))

    @property
    def factors(self) -> dict[str, Factor]:
        """What the data set that they were taken from knows of these images; classes are as they are numbered here."""
        return {
            name: replace(factor, values=factor.values[self._positions])
            for name, factor in self._parent.factors.items()
            if name != "class"
        }

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Name of each class of pixels, as the data set has them."""
        return self._parent.map_classes

    def maps(self, index: int) -> Mapping[str, NDArray[np.uint8]]:
        """Return what is known of each pixel of image `index`.

        Raises:
            DataError: nothing is known, or what is cannot be read.
        """
        return self._parent.maps(int(self._positions[index]))

    def image_name(self, index: int) -> str | None:
        """Return the name of image `index` as `<class>/<file>`, or None if its source has no file names."""
        return self._parent.image_name(int(self._positions[index]))

    def source_name(self, index: int) -> str:
        """Return where image `index` lies in the source of the data set that it was taken from."""
        return self._parent.source_name(int(self._positions[index]))

    def digests(self) -> NDArray[np.uint64]:
        """Return `content_digest` of each image [N], as the whole data set has it."""
        return self._parent.digests()[self._positions]


def read_choice(options: Mapping[str, str], *, spec: str) -> Choice | None:
    """Return what the options of a data set's name ask for; None if that is all of it.

    Args:
        options: keys of `OPTIONS`.
        spec: the whole name, for messages.

    Raises:
        DataError: values do not fit, or options contradict each other (the message lists all), or a list is unusable.
    """
    if not options:
        return None
    problems: list[str] = []
    fraction = _number(options, "fraction", problems, expected="a number above 0 and up to 1, such as 0.1")
    per_class = _number(options, "per_class", problems, expected="a whole number from 1")
    seed = _number(options, "seed", problems, expected="a whole number from 0")
    test = _number(options, "test", problems, expected="a number between 0 and 1, such as 0.2")
    drawn = [key for key in ("fraction", "per_class") if key in options]
    if len(drawn) == 2:
        problems.append("fraction and per_class both say how many to draw; keep one")
    if drawn and "images" in options:
        problems.append(f"images names the train images, so {drawn[0]} has nothing to draw; keep one")
    if "seed" in options and not drawn and "test" not in options:
        problems.append("seed without fraction, per_class or test draws nothing; add one of them, or leave it out")
    if problems:
        raise DataError(f"--dataset {spec}: {'; '.join(problems)}")
    return Choice(
        classes=read_class_list(options["classes"]) if "classes" in options else None,
        images=read_image_list(Path(options["images"]).expanduser()) if "images" in options else None,
        fraction=fraction,
        per_class=None if per_class is None else int(per_class),
        seed=int(seed or 0),
        test=test,
    )


def _number(options: Mapping[str, str], key: str, problems: list[str], *, expected: str) -> float | None:
    """Return the value of an option, or None if it is not given or does not fit, which becomes a problem."""
    if key not in options:
        return None
    try:
        value = float(options[key]) if key in ("fraction", "test") else int(options[key])
    except ValueError:
        value = math.nan
    fits = {"fraction": 0 < value <= 1, "test": 0 < value < 1, "per_class": value >= 1, "seed": value >= 0}[key]
    if not fits:
        problems.append(f"{key} must be {expected}, found {options[key]!r}")
    return value if fits else None


def take_subset(dataset: ImageDataset, choice: Choice, *, split: str) -> ImageDataset:
    """Return the part of one split that is chosen; the data set itself where that is all of it.

    Draws are stratified and nested: of a class, a smaller one is contained in a larger one of the same seed, and
    whether an image is drawn does not depend on the other classes that are chosen.

    Args:
        dataset: the split; train where `choice.test` makes both of it.
        choice: what is taken.
        split: which split of the choice.

    Raises:
        DataError: the data set lacks classes or images that a list names, or has fewer images than asked for.
    """
    notes: list[str] = []
    identity: dict[str, Any] = {}
    name = dataset.name
    classes = np.arange(len(dataset.class_names))
    kept = np.ones(len(dataset), dtype=bool)
    seed = f"?seed={choice.seed}" if choice.seed else ""
    if choice.classes is not None:
        classes = _labels_of(dataset, choice.classes)
        kept = np.isin(dataset.labels, classes)
        name += f"?classes={choice.classes.file}"
        identity["classes"] = choice.classes.sha256
        of = f"{len(classes)} of {dataset.name}'s {len(dataset.class_names)} classes"
        notes.append(f"{of}, those in {choice.classes.file} (sha256 {choice.classes.sha256[:16]})")
    if choice.test is not None:
        held = _held_out(dataset, classes, choice)
        kept &= held if split == "test" else ~held
        name += f"?test={choice.test:.12g}{seed}"
        identity["test"] = {"share": choice.test, "seed": choice.seed, "split": split}
        share = f"{100 * choice.test:.12g} % of each class"
        notes.append(f"test is {share} of {dataset.name}'s train images, drawn with seed {choice.seed}; train the rest")
    if split == "train" and choice.images is not None:
        kept &= np.isin(np.arange(len(dataset)), indices_of(dataset, choice.images.names))
        name += f"?images={choice.images.file}"
        identity["images"] = choice.images.sha256
        images = f"train is {int(kept.sum()):,} images"
        notes.append(f"{images} in {choice.images.file} (sha256 {choice.images.sha256[:16]})")
    drawn = {"fraction": choice.fraction, "per_class": choice.per_class}
    for key, value in drawn.items():
        if split == "train" and value is not None:
            kept &= _draw(dataset, np.flatnonzero(kept), classes, choice)
            name += f"?{key}={value:.12g}{'' if choice.test else seed}"
            identity |= {key: value, "seed": choice.seed}
            share = f"{100 * value:.12g} % of each class" if key == "fraction" else f"{value} images of each class"
            notes.append(f"train is {share}, {int(kept.sum()):,} images drawn with seed {choice.seed}")
    if not identity:
        return dataset
    positions = np.flatnonzero(kept)
    return Subset(dataset, positions, classes=classes, split=split, name=name, identity=identity, notes=notes)


def _labels_of(dataset: ImageDataset, listed: NameList) -> NDArray[np.int64]:
    """Return the sorted labels [C] of the listed classes."""
    number = {unicodedata.normalize("NFC", name): label for label, name in enumerate(dataset.class_names)}
    unknown = [name for name in listed.names if name not in number]
    if unknown:
        # Only what is shown is compared with all names: that is slow.
        near = {name: name + did_you_mean(name, number) for name in unknown[:5]}
        raise DataError(
            f"{dataset.name} lacks {len(unknown)} of the {len(listed.names)} classes in {listed.file}: "
            f"{first_few(near.get(name, name) for name in unknown)}; it has {first_few(number, 10)}"
        )
    return np.array(sorted(number[name] for name in listed.names), dtype=np.int64)


def _held_out(dataset: ImageDataset, classes: NDArray[np.int64], choice: Choice) -> NDArray[np.bool_]:
    """Return which images [N] of train become test: of each class a share, rounded, but not none and not all."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    single = [dataset.class_names[label] for label in classes if counts[label] == 1]
    if single:
        raise DataError(
            f"{dataset.name}: class {first_few(single)} has one train image, which ?test= cannot part; "
            "add images, or leave it out with ?classes=FILE"
        )
    sizes = np.clip([round((choice.test or 0.0) * int(count)) for count in counts], 1, np.maximum(1, counts - 1))
    return (
        _shuffled_ranks(dataset, np.arange(len(dataset)), choice.seed, "test split of a data set")
        < sizes[dataset.labels]
    )


def _draw(
    dataset: ImageDataset, rows: NDArray[np.int64], classes: NDArray[np.int64], choice: Choice
) -> NDArray[np.bool_]:
    """Return which images [N] are drawn of those at `rows`: of each class, the first of an order of the seed alone."""
    counts = np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))
    if choice.per_class is not None:
        for label in classes:
            if counts[label] < choice.per_class:
                raise DataError(
                    f"{dataset.name} has {counts[label]:,} {dataset.split} images of class "
                    f"{dataset.class_names[label]}, fewer than per_class={choice.per_class}; ask for fewer"
                )
        sizes = np.full(len(counts), choice.per_class)
    else:
        # As low-shot probes draw: rounded, at least one.
        sizes = np.array([max(1, round((choice.fraction or 1.0) * int(count))) for count in counts])
    drawn = np.zeros(len(dataset), dtype=bool)
    ranks = _shuffled_ranks(dataset, rows, choice.seed, "subset of a data set")
    drawn[rows] = ranks < sizes[dataset.labels[rows]]
    return drawn


def _shuffled_ranks(dataset: ImageDataset, rows: NDArray[np.int64], seed: int, stream: str) -> NDArray[np.int64]:
    """Return for each image at `rows` [M] its rank [M] among those of its class, in an order of the seed alone."""
    order = np.argsort(uniform_rows(derive_seed(seed, 0, stream), rows, columns=1)[:, 0], kind="stable")
    ranks = np.empty_like(rows)
    ranks[order] = class_ranks(dataset.labels[rows][order])
    return ranks

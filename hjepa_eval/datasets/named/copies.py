"""Copies of published data sets: where they lie, whether their classes are right, and whether they are complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hjepa_eval.datasets.files.folder import class_folders, split_folder
from hjepa_eval.datasets.files.listing import Links, is_folder
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, first_few


def find_copy(name: str, root: Path, *, folders: Iterable[str], layout: str) -> Path:
    """Return the folder that holds `train/`: `root` itself, or the first of `root/<folder>`.

    Raises:
        DataError: none does; the message says which layout is expected.
    """
    for folder in (root, *(root / each for each in folders)):
        if is_folder(folder / "train"):
            return folder
    raise DataError(
        f"{name} is not under {root}: expected {layout} there or in {root / name}; "
        "name its folder with --root (or HJEPA_DATA)"
    )


def check_class_count(name: str, root: Path, *, expected: int, links: Links) -> None:
    """Check how many class folders the train split has, before anything is read.

    Raises:
        DataError: more or fewer.
    """
    train = split_folder(root, "train")
    found = class_folders(train, links)
    if len(found) != expected:
        raise DataError(
            f"{train} has {len(found):,} of {name}'s {expected:,} classes "
            f"({first_few(found)}); complete the copy, or name it folder:{root}"
        )


def check_class_set(name: str, folder: Path, *, found: Iterable[str], expected: Mapping[str, str]) -> None:
    """Check that a folder holds the classes of a data set and no others.

    Args:
        name: of the data set.
        folder: of the train split.
        found: names of its class folders.
        expected: class names, and what they mean in words (may be empty).

    Raises:
        DataError: classes are missing or foreign; the message names both.
    """
    present = set(found)
    missing = [f"{each} ({word})" if word else each for each, word in expected.items() if each not in present]
    foreign = sorted(present - set(expected))
    problems = [f"lacks {len(missing)}: {first_few(missing)}"] if missing else []
    problems += [f"has {len(foreign)} that are not {name}'s: {first_few(foreign)}"] if foreign else []
    if problems:
        raise DataError(
            f"{folder}: of {name}'s {len(expected)} classes it {'; it '.join(problems)}; "
            f"complete the copy, or name it folder:{folder.parent}"
        )


def count_notes(dataset: ImageDataset, official: Mapping[str, int]) -> tuple[str, ...]:
    """Return a note if a copy holds another number of images than the published data set, per split."""
    expected = official[dataset.split]
    if len(dataset) == expected:
        return ()
    return (
        f"this copy holds {len(dataset):,} of {dataset.name}'s {expected:,} {dataset.split} images; "
        "do not compare its numbers with published ones",
    )

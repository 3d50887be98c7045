"""Official subsets as lists of image file names, one a line, such as SimCLR's `1percent.txt` and `10percent.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.name_lists import NameList, read_names
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, first_few


def read_image_list(path: Path) -> NameList:
    """Return the list in a text file, `<file>` or `<class>/<file>` a line; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is no text, is empty, or names an image twice.
    """
    return read_names(path, "image list", item="image", line="image file name")


def indices_of(dataset: ImageDataset, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the sorted positions [M] in `dataset` of the images called `names`, `<file>` or `<class>/<file>`.

    Raises:
        DataError: the dataset has no file names, lacks some of the images, has several of one file name, or two of
            the names are one image.
    """
    wanted = set(names)
    found: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        full = dataset.image_name(index)
        if full is None:
            raise DataError(
                f"{dataset.name} has no file names that a list could name; draw a fraction or a number per class"
            )
        for name in {full, full.rpartition("/")[2]} & wanted:
            found.setdefault(name, []).append(index)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"the {dataset.split} split of {dataset.name} lacks {len(missing)} of the {len(names)} listed images: "
            f"{first_few(missing)}; is the list of another data set, or are images missing?"
        )
    shared = next((name for name in names if len(found[name]) > 1), None)
    if shared is not None:
        several = first_few(str(dataset.image_name(index)) for index in found[shared])
        raise DataError(
            f"{len(found[shared])} images of {dataset.name} are called {shared}: {several}; list class/file"
        )
    indices = np.unique(np.array([found[name][0] for name in names], dtype=np.int64))
    if len(indices) < len(names):
        raise DataError(
            f"the list names {len(names) - len(indices)} images of {dataset.name} twice, with class and without"
        )
    return indices

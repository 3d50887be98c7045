"""Official subsets as lists of image file names, one a line, such as SimCLR's `1percent.txt` and `10percent.txt`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, first_few


@dataclass(frozen=True)
class ImageList:
    """A list of images.

    Attributes:
        file: the file's name without its folder.
        names: one per image, `<file>` or `<class>/<file>`, in the file's order.
        sha256: of the file's bytes; lists of one name differ between projects, so results carry it.
    """

    file: str
    names: tuple[str, ...]
    sha256: str


def read_image_list(path: Path) -> ImageList:
    """Return the list in a text file; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is no text, is empty, or names an image twice.
    """
    names, sha256 = read_names(path, "image list", item="image", line="image file name")
    return ImageList(path.name, names, sha256)


def read_names(path: Path, kind: str, *, item: str, line: str) -> tuple[tuple[str, ...], str]:
    """Return the lines of a text file that are not blank, and the sha256 of its bytes.

    Args:
        path: the file.
        kind: how messages call the file, such as `image list`.
        item: how they call what a line names.
        line: how they say what a line should hold.

    Raises:
        DataError: the file cannot be read, is no text, is empty, or has a line twice.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the {kind} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"the {kind} {path} is no text; expected one {line} a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"the {kind} {path} is empty; expected one {line} a line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        plural = f"{item}es" if item.endswith("s") else f"{item}s"
        raise DataError(f"the {kind} {path} names {len(twice)} {plural} more than once: {first_few(twice)}")
    return names, hashlib.sha256(content).hexdigest()


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

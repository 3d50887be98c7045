"""Subsets as lists in text files, one name a line: of images (SimCLR's `1percent.txt`), of classes (`cmc`)."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, first_few


@dataclass(frozen=True)
class NameList:
    """A list of names.

    Attributes:
        file: the file's name without its folder, or what is said in its place.
        names: in the file's order.
        sha256: of the file's bytes; lists of one name differ between projects, so results carry it.
    """

    file: str
    names: tuple[str, ...]
    sha256: str


def read_names(path: Path, kind: str, *, item: str, line: str) -> NameList:
    """Return the lines of a text file that are not blank, in composed Unicode (NFC).

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
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"cannot read the {kind} {path}: {error.strerror}; it is a file with one {line} a line"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"the {kind} {path} is no text; expected one {line} a line") from None
    names = tuple(unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip())
    if not names:
        raise DataError(f"the {kind} {path} is empty; expected one {line} a line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        plural = f"{item}es" if item.endswith("s") else f"{item}s"
        raise DataError(f"the {kind} {path} names {len(twice)} {plural} more than once: {first_few(twice)}")
    return NameList(path.name, names, hashlib.sha256(content).hexdigest())


# The order of the published file: its sha256 is that of these names, one a line.
# Source: Tian, Krishnan and Isola, "Contrastive multiview coding", 2019; imagenet100.txt of HobbitLong/CMC, which
# solo-learn uses too.
_CMC = """
    n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245 n01773797
    n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148 n03530642 n04435653
    n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993 n04493381 n02109047 n04111531
    n02877765 n04429376 n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
    n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 n02701002 n03379051
    n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 n01980166 n02113799 n02086240 n03903868
    n02483362 n04127249 n02089973 n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322
    n02113978 n03787032 n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
    n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
    n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672 n02090622
"""
IMAGENET100 = tuple(_CMC.split())


def read_class_list(value: str) -> NameList:
    """Return the classes in a text file, or ImageNet-100's for `cmc`; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is no text, is empty, or names a class twice.
    """
    if value == "cmc":
        content = "".join(f"{name}\n" for name in IMAGENET100)
        return NameList(value, IMAGENET100, hashlib.sha256(content.encode()).hexdigest())
    return read_names(Path(value).expanduser(), "class list", item="class", line="class name")


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
        full = unicodedata.normalize("NFC", full)
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

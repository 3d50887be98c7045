"""Masks: classes of pixels from PNG files with a palette or in grey, as they lie beside images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import DataError

MASKS, CLASSES = "masks", "classes.txt"
# Of Pillow: a palette, grey of 8 bits, black and white.
_MODES = ("P", "L", "1")


def read_mask(file: Path, *, image: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the class numbers of a mask's pixels, uint8 `[H, W]`: indices of its palette, or grey values.

    Args:
        file: PNG.
        image: rows and columns of its image, where they are known.

    Raises:
        DataError: it is not there, cannot be read, has colours instead of numbers, or is of another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            if opened.mode not in _MODES:
                raise DataError(f"{file} is {opened.mode}; a mask has class numbers, as a palette or grey of 8 bits")
            values = np.array(opened, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(
            f"{file} is missing: every image needs a mask of its name; add it, or 255 for no class"
        ) from None
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as a mask: {error}") from None
    if image is not None and values.shape != image:
        rows, columns = values.shape
        raise DataError(f"{file} is {rows} x {columns}, its image {image[0]} x {image[1]}; they must be of one size")
    return values


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the names of a file's lines; the first is class 0.

    Raises:
        DataError: it is not there, cannot be read, or is empty.
    """
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}; it names the classes of masks, one a line from 0") from None
    if not names or len(names) > 255:
        raise DataError(f"{file} names {len(names)} classes; expected 1 to 255, one a line from class 0")
    return names


class FolderMasks:
    """Masks in `masks/` beside the folders of splits: `masks/train/cat/1.png` for `train/cat/1.jpg`."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        """Take the masks below `root` of images whose paths from there are `names`."""
        self.folder, self._names = root / MASKS, names

    @property
    def known(self) -> bool:
        """Whether there is such a folder."""
        return self.folder.is_dir()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none without masks.

        Raises:
            DataError: they cannot be read.
        """
        return read_class_names(self.folder / CLASSES) if self.known else ()

    def read(self, index: int, *, image: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the mask of an image.

        Raises:
            DataError: it is missing, cannot be read, or is of another size.
        """
        return read_mask((self.folder / self._names[index]).with_suffix(".png"), image=image)


def image_size(file: Path) -> tuple[int, int] | None:
    """Return rows and columns of an image file from its header; None where only decoding would tell."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            return opened.height, opened.width
    except (OSError, UnidentifiedImageError, SyntaxError):
        return None


Renumber = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def by_table(numbers: dict[int, int]) -> Renumber:
    """Return a function that gives pixels other class numbers, and 255 to those that have none."""
    table = np.full(256, 255, np.uint8)
    for number, label in numbers.items():
        table[number] = label
    return lambda values: np.asarray(table[values])

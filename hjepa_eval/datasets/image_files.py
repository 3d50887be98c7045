"""Labelled image files below a folder: read when asked for, fingerprinted by their content."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hjepa_eval.datasets.decoding import decode
from hjepa_eval.datasets.images import check_classes
from hjepa_eval.datasets.listing import HOW_TO_FOLLOW, FileList, Links
from hjepa_eval.datasets.protocol import ImageDataset, interleave
from hjepa_eval.errors import DataError
from hjepa_eval.features.contents import fingerprint_files

if TYPE_CHECKING:
    from torch import Tensor

# In the name of a file, these would break a message in two.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\\t", 10: "\\n", 13: "\\r"}


class ImageFiles(ImageDataset):
    """Labelled image files below a folder, however they are laid out.

    What cannot be opened, such as a link that leads nowhere or out of the data set, is listed all the same and fails
    in `image`: the user decides whether to skip it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        files: FileList,
        *,
        split: str,
        class_names: tuple[str, ...],
        links: Links,
        memo: Path | None,
    ) -> None:
        """Put the files in order and fingerprint their names and content.

        Args:
            name: the dataset's name in results.
            folder: what the names of the files are relative to.
            files: what was found there.
            split: `train` or `test`.
            class_names: name of each label.
            links: which links are followed.
            memo: folder for remembered fingerprints.

        Raises:
            DataError: a class is empty.
        """
        labels = np.asarray(files.labels, dtype=np.int64)
        check_classes(class_names, labels, where=str(folder))
        order = interleave(labels)
        self.name = name
        self.split = split
        self.folder = folder
        self.class_names = class_names
        self.labels = labels[order]
        self._names = [files.names[place] for place in order.tolist()]
        self._outside, self._links = files.outside, links
        states = np.concatenate(files.states)[order]
        self.fingerprint = fingerprint_files(folder, self._names, states=states, memo=memo)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the file cannot be read or decoded, or is a link out of the data set; the message names it.
        """
        path = self.folder / self._names[index]
        shown = str(path).translate(_CONTROLS)
        link = f"to {os.readlink(path).translate(_CONTROLS)}" if os.path.islink(path) else ""
        if self._names[index] in self._outside:
            raise DataError(f"{shown} is a link that leaves {self._links.root} ({link}); {HOW_TO_FOLLOW}")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{shown} is no regular file")
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {shown}{link and f' (a link {link})'}: {error.strerror}") from None
        return decode(content, shown)

    def image_name(self, index: int) -> str:
        """Return the name of image `index` as `<class>/<file>`."""
        return f"{self.class_names[self.labels[index]]}/{self._names[index].rpartition('/')[2]}"

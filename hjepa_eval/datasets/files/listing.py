"""What lies in folders: names and their statuses, image files with labels, and links that leave the data set."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import DataError
from hjepa_eval.features.memo import MODE, file_states, is_regular

HOW_TO_FOLLOW = "add ?links=follow to the data set's name to allow it"


class Links:
    """Which symbolic links are followed: those that stay below a root, or all of them."""

    def __init__(self, root: Path, *, follow: bool = False) -> None:
        """Remember the root, itself free to be a link."""
        self.follow = follow
        self.root = os.path.realpath(root)

    def leaves(self, path: str | Path) -> bool:
        """Tell whether a link must not be followed, because it leads out of the root."""
        return not self.follow and not os.path.join(os.path.realpath(path), "").startswith(os.path.join(self.root, ""))

    def check_folder(self, path: str | Path) -> None:
        """Check that a folder is no link out of the root.

        Raises:
            DataError: it is.
        """
        if not self.follow and os.path.islink(path) and self.leaves(path):
            raise DataError(f"{path} is a link that leaves {self.root} (to {os.readlink(path)}); {HOW_TO_FOLLOW}")


@dataclass
class FileList:
    """Image files below a folder, in the order in which they were found.

    Attributes:
        names: relative to the folder, with `/`.
        states: one `[M, 5]` per part that was added, as `file_states` gives them: of what a name leads to; of the link
            itself where it leads nowhere, or is not to be followed.
        labels: one per name.
        outside: names of links that are not to be followed.
        nested: names of folders, where there should be images only.
    """

    names: list[str] = field(default_factory=list)
    states: list[NDArray[np.uint64]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    nested: list[str] = field(default_factory=list)

    def add(self, folder: Path, part: str, files: Sequence[str], *, labels: Sequence[int], links: Links) -> None:
        """Add files of `folder/part`, or of `folder` for an empty part, with their labels.

        Raises:
            DataError: the status of one cannot be had.
        """
        names = [f"{part}/{file}" if part else file for file in files]
        # Statuses are many times larger than what is kept of them.
        states = file_states(statuses(folder / part, files, links=links))
        for place in np.flatnonzero(~is_regular(states)):
            mode = int(states[place, MODE])
            if stat.S_ISDIR(mode):
                self.nested.append(names[place])
            elif stat.S_ISLNK(mode) and links.leaves(folder / names[place]):
                self.outside.add(names[place])
        self.names += names
        self.states.append(states)
        self.labels += labels


def visible(folder: Path) -> list[str]:
    """Return the names of a folder's entries that are not hidden, sorted.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check its permissions") from None


def statuses(folder: Path, names: Sequence[str], *, links: Links | None = None) -> list[os.stat_result]:
    """Return the status of what each entry leads to; of a link itself when it leads nowhere or must not be followed.

    Raises:
        DataError: a status cannot be had.
    """
    found = _own_statuses(folder, names)
    for place, status in enumerate(found):
        # Only links cost a resolution.
        if stat.S_ISLNK(status.st_mode) and (links is None or not links.leaves(folder / names[place])):
            with contextlib.suppress(OSError):
                found[place] = os.stat(folder / names[place])
    return found


def _own_statuses(folder: Path, names: Sequence[str]) -> list[os.stat_result]:
    """Return the statuses of entries, of links themselves."""
    name = ""
    try:
        if os.stat not in os.supports_dir_fd:
            return [os.lstat(folder / (name := each)) for each in names]
        # A fifth faster than by whole paths, which the system resolves anew each time.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            return [os.stat(name := each, dir_fd=descriptor, follow_symlinks=False) for each in names]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"cannot look at {folder / name}: {error.strerror}; check its permissions") from None


def is_folder(path: Path) -> bool:
    """Tell whether `path` is a folder.

    Raises:
        DataError: that cannot be told, for want of permission.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"cannot look at {path}: {error.strerror}; check its permissions") from None

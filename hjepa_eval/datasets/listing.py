"""What lies in folders: entries and their statuses, image files with labels, and links that leave the data set."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from hjepa_eval.errors import DataError

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
        stats: of what a name leads to; of the link itself where it leads nowhere, or is not to be followed.
        labels: one per name.
        outside: names of links that are not to be followed.
        nested: names of folders, where there should be images only.
    """

    names: list[str] = field(default_factory=list)
    stats: list[os.stat_result] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    nested: list[str] = field(default_factory=list)

    def add(self, entries: Sequence[os.DirEntry[str]], part: str, labels: Sequence[int], *, links: Links) -> None:
        """Add the entries of the folder `part`, with their labels.

        Raises:
            DataError: the status of one cannot be had.
        """
        names = [f"{part}/{entry.name}" for entry in entries]
        stats = [status_of(entry, links) for entry in entries]
        for name, entry, status in zip(names, entries, stats, strict=True):
            if stat.S_ISDIR(status.st_mode):
                self.nested.append(name)
            elif stat.S_ISLNK(status.st_mode) and links.leaves(entry.path):
                self.outside.add(name)
        self.names += names
        self.stats += stats
        self.labels += labels


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted([entry for entry in entries if not entry.name.startswith(".")], key=attrgetter("name"))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check its permissions") from None


def status_of(entry: os.DirEntry[str], links: Links | None = None) -> os.stat_result:
    """Return the status of what an entry leads to; of the link itself when it leads nowhere or must not be followed.

    Raises:
        DataError: the status cannot be had.
    """
    try:
        # Only links cost a resolution; whether an entry is one came with the listing.
        if links is None or not entry.is_symlink() or not links.leaves(entry.path):
            return entry.stat()
    except OSError:
        pass
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as error:
        raise DataError(f"cannot look at {entry.path}: {error.strerror}; check its permissions") from None


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

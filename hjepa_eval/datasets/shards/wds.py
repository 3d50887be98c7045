"""Tar shards in WebDataset's naming, read at random: `KEY.jpg` beside `KEY.cls`, or `KEY.json` with a label."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.datasets.protocol import (
    ImageDataset,
    check_class_numbers,
    check_unchanged,
    interleave,
    numbered_classes,
)
from hjepa_eval.datasets.shards.places import (
    as_large,
    check_contents,
    check_copies,
    check_paths,
    find_shards,
    shards_name,
)
from hjepa_eval.datasets.shards.tar_index import TarIndex, index_shard
from hjepa_eval.errors import ChangedError, DataError, MachineError, first_few, lacks_files
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.memo import file_state

if TYPE_CHECKING:
    from torch import Tensor

CLASS_FILE = "classes.txt"
READERS = 8
# More shards are opened for every image anew: systems allow a process as few as 256 open files.
MOST_OPEN = 64


class TarShards(ImageDataset):
    """Images in tar shards. The fingerprint is over the shards' content, so their place and names do not matter."""

    def __init__(self, name: str, shards: Sequence[TarIndex], *, split: str, class_names: Sequence[str]) -> None:
        """Put the samples of indexed shards in order.

        Args:
            name: the dataset's name in results.
            shards: of one split.
            split: `train` or `test`.
            class_names: name of each label.

        Raises:
            DataError: a label is outside the classes, or two shards are the same.
        """
        self.name = name
        self.split = split
        self.class_names = tuple(class_names)
        labels = _labels(shards)
        counts = [len(shard.names) for shard in shards]
        ends = np.cumsum(counts)

        def member(row: int) -> str:
            shard = int(np.searchsorted(ends, row, side="right"))
            return f"{shards[shard].path}: {shards[shard].names[row - int(ends[shard])]}"

        self.where = _called(shards)
        check_class_numbers(labels, self.class_names, sample=member)
        check_copies(shards)
        order = interleave(labels)
        self.labels = labels[order]
        self._shard = np.repeat(np.arange(len(shards)), counts)[order]
        self._place = np.concatenate([np.arange(count) for count in counts])[order]
        self._digests = np.concatenate([shard.digests for shard in shards])[order]
        unlike = [key for shard in shards for key in shard.unlike]
        if unlike:
            self.notes = (
                f"{len(unlike):,} {split} samples have one label in .cls and another in .json; "
                f".cls is taken: {first_few(unlike)}",
            )
        self._shards = list(shards)
        self._files = _OpenFiles(shards)
        self.fingerprint = hash_json(["wds", list(self.class_names), [shard.sha256 for shard in shards]])

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the shard cannot be read, or the image cannot be decoded.
            ChangedError: the shard changed since it was indexed.
            MachineError: too many files are open.
        """
        number, place = int(self._shard[index]), int(self._place[index])
        shard = self._shards[number]
        content = self._files.read(number, int(shard.offsets[place]), int(shard.sizes[place]))
        name = f"{shard.path}: {shard.names[place]}"
        check_unchanged(content, self._digests[index], name=name)
        return decode(content, name)

    def digests(self) -> NDArray[np.uint64]:
        """Return `content_digest` of each image's bytes [N]."""
        return self._digests

    def image_name(self, index: int) -> str:
        """Return the name of image `index` as `<class>/<key>.<extension>`."""
        name = self._shards[int(self._shard[index])].names[int(self._place[index])]
        return f"{self.class_names[self.labels[index]]}/{name}"

    def source_name(self, index: int) -> str:
        """Return the shard and the member that image `index` is, such as `photos-train-000.tar/cat/1.png`."""
        shard = self._shards[int(self._shard[index])]
        return f"{shard.path.name}/{shard.names[int(self._place[index])]}"


class _OpenFiles:
    """Shards that many threads read at once: reads name their place, so threads share a descriptor without a lock."""

    def __init__(self, shards: Sequence[TarIndex]) -> None:
        self._shards = list(shards)
        self._descriptors: dict[int, int] = {}
        self._opening = threading.Lock()
        weakref.finalize(self, _close, self._descriptors)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of a shard."""
        shard = self._shards[number]
        try:
            content = self._read(number, offset, size)
        except OSError as error:
            kind = MachineError if lacks_files(error) else DataError
            raise kind(f"cannot read the shard {shard.path}: {error.strerror}") from None
        if len(content) < size:
            raise ChangedError(f"the shard {shard.path} became shorter since it was indexed; start again")
        return content

    def _read(self, number: int, offset: int, size: int) -> bytes:
        descriptor = self._descriptors.get(number)
        if descriptor is None and hasattr(os, "pread"):
            with self._opening:
                if len(self._descriptors) < MOST_OPEN and number not in self._descriptors:
                    self._descriptors[number] = self._open(number)
                descriptor = self._descriptors.get(number)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = self._open(number)
        try:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.close(descriptor)

    def _open(self, number: int) -> int:
        shard = self._shards[number]
        descriptor = os.open(shard.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if file_state(os.fstat(descriptor)) != shard.state:
            os.close(descriptor)
            raise ChangedError(f"the shard {shard.path} changed since it was indexed; start again")
        return descriptor


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def load_shards(pattern: str, *, split: str, test_pattern: str | None, memo: Path | None) -> TarShards:
    """Return one split of the images in tar shards.

    Classes are called as the lines of `classes.txt` beside the train shards say, else by their numbers.

    Args:
        pattern: of the shards (`find_shards`).
        split: `train` or `test`.
        test_pattern: of the test shards, when one pattern cannot say both.
        memo: folder for remembered indices.

    Raises:
        DataError: shards are missing or unusable, the labels do not fit the classes, or a test shard is a train shard
            too.
    """
    train = find_shards(pattern, split="train")
    own = train if split == "train" else find_shards(pattern, split="test", test_pattern=test_pattern)
    if split == "test":
        check_paths(train, own)
    class_names = _read_classes(train[0].parent / CLASS_FILE)
    # Those of train are needed for test to know the classes, and where one may be a copy.
    needed = train if class_names is None else [] if split == "train" else as_large(train, own)
    # All shards at once.
    wanted = list(dict.fromkeys([*needed, *own]))
    indices = dict(zip(wanted, _index_all(wanted, memo), strict=True))
    known = [indices[path] for path in needed]
    if split == "test":
        check_contents(known, [indices[path] for path in own])
    if class_names is None:
        remedy = f"or a file {CLASS_FILE} beside them that names every class"
        class_names = numbered_classes(_labels(known), where=_called(known), remedy=remedy)
    name = f"wds:{shards_name(pattern)}"
    return TarShards(name, [indices[path] for path in own], split=split, class_names=class_names)


def _index_all(paths: Sequence[Path], memo: Path | None) -> list[TarIndex]:
    with ThreadPoolExecutor(READERS, thread_name_prefix="index") as pool:
        pending = [pool.submit(index_shard, path, memo=memo) for path in paths]
        try:
            return [future.result() for future in pending]
        finally:
            # After an error the rest need not be read.
            for future in pending:
                future.cancel()


def _read_classes(path: Path) -> tuple[str, ...] | None:
    """Return the class names in a file, one a line, or None if there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names {path}: {error}; expected one name a line") from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(f"the class names {path} must be one a line, none empty, none twice")
    return tuple(names)


def _labels(shards: Sequence[TarIndex]) -> NDArray[np.int64]:
    return np.concatenate([shard.labels for shard in shards])


def _called(shards: Sequence[TarIndex]) -> str:
    return f"{shards[0].path} and its like" if len(shards) > 1 else str(shards[0].path)

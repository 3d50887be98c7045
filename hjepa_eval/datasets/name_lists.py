"""Lists of names in text files, one a line: of images, of classes."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
    """Return the lines of a text file that are not blank.

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
    return NameList(path.name, names, hashlib.sha256(content).hexdigest())

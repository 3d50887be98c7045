"""Where a report goes: which format is asked for, and its text on stdout or in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from hjepa_eval.errors import ResultError, unknown

# Endings that are no format's name.
_ENDINGS = {"": "table", "txt": "table", "tex": "latex", "htm": "html", "markdown": "md"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def choose_format(name: str | None, out: Path | None, known: Iterable[str]) -> str:
    """Return the format asked for, else the one of the file's ending, else `table`.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name is None:
        ending = "" if out is None else out.suffix.removeprefix(".").lower()
        name = _ENDINGS.get(ending, ending)
    names = list(known)
    if name not in names:
        raise unknown("format", name, names)
    return name


def write_text(path: Path, text: str) -> Path:
    """Write a file and return its path.

    Raises:
        ResultError: it cannot be written; no part of it is left.
    """
    from hjepa_eval.features.fingerprint import write_atomically

    try:
        write_atomically(path, text.encode(errors="replace"))
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another with --out") from None
    return path


def deliver(text: str, out: Path | None) -> None:
    """Print a report, or write it and say where.

    Raises:
        ResultError: it cannot be written.
    """
    if out is None:
        print(text, end="")
    else:
        # A table is drawn for stdout, which may be a terminal with colours; a file is none.
        print(f"written: {write_text(out, _COLOURS.sub('', text))}", file=sys.stderr)

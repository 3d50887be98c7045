"""Where a report goes: which format is asked for, and its text on stdout or in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from hjepa_eval.errors import unknown

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


def deliver(text: str, out: Path | None) -> None:
    """Print a report, or write it and say where.

    Raises:
        ResultError: it cannot be written.
    """
    from hjepa_eval.report.output import write_output

    if out is None:
        print(text, end="")
    else:
        # A table is drawn for stdout, which may be a terminal with colours; a file is none.
        print(f"written: {write_output(out, _COLOURS.sub('', text))}", file=sys.stderr)

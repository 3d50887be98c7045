"""Stands for the module that writes the page of an evaluation: a file with a line per record and per gallery.

The page takes two thirds of the time of a small evaluation, and has tests of its own in tests/report/page. As a
program it is `hjepa` with such a page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "hjepa_eval.report.page.page"


def write_page(located: Sequence[Any], galleries: Sequence[Any], path: Path, *, profiles: Sequence[Any] = ()) -> Path:
    from hjepa_eval.features.fingerprint import write_atomically

    lines = [f"{source.record.model.name} {source.record.probe} {source.folder}" for source in located]
    write_atomically(path, "\n".join([*lines, *(f"gallery {gallery.model}" for gallery in galleries)]).encode())
    return path


if __name__ == "__main__":
    import quick_page

    from hjepa_eval.cli import main

    sys.modules[NAME] = quick_page
    main(sys.argv[1:])

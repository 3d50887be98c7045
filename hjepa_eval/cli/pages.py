"""Where a report goes: its text on stdout or in a file, its page in a folder and in the user's browser."""

from __future__ import annotations

import re
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hjepa_eval.cli.console import say_error
from hjepa_eval.errors import ResultError

if TYPE_CHECKING:
    from hjepa_eval.report.tables.model_pairs import Located
    from hjepa_eval.results.records import Record


def open_page(path: Path) -> None:
    """Open a file in the browser; where none can be opened, as on a remote machine, say so and go on."""
    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        # Whoever asked for a browser wants to know, even with --quiet.
        say_error(f"no browser can be opened here; open {path} yourself")


PAGE = "report.html"


def write_evaluation_page(records: Sequence[Record], folder: Path, *, results: Path, images: bool = True) -> Path:
    """Write `report.html` of one evaluation into a folder, whatever else lies there, and return its path.

    Args:
        records: of the evaluation.
        folder: where the page goes.
        results: where the records, their outcomes and their galleries lie.
        images: show the galleries of these records, if there are any.

    Raises:
        ResultError: the page cannot be written.
    """
    from hjepa_eval.report.tables.model_pairs import Located

    return write_located([Located(record, results) for record in records], [results], folder / PAGE, images=images)


def write_located(located: Sequence[Located], paths: Sequence[Path], out: Path, *, images: bool = True) -> Path:
    """Write the page of records of one dataset and return its path; a line on stderr for each damaged file beside them.

    Args:
        located: the records.
        paths: folders and files where their galleries and profiles lie.
        out: the page.
        images: show the galleries of these records, if there are any.

    Raises:
        ResultError: the page cannot be written.
    """
    from hjepa_eval.report.page.page import write_page
    from hjepa_eval.results.files import find_galleries
    from hjepa_eval.results.profile_files import find_profiles

    records = [each.record for each in located]
    galleries = find_galleries(paths, records, damaged=_say_left_out) if images else []
    for each in located:
        if each.record.predictions is not None:
            try:
                _ = each.samples
            except ResultError as error:
                _say_left_out(error)
    profiles = find_profiles(paths, damaged=_say_left_out)
    return write_page(located, galleries, out, profiles=profiles)


def _say_left_out(error: ResultError) -> None:
    say_error(f"left out of the page: {error}")


def where_it_is(paths: Sequence[Path]) -> str:
    """Return the line that says where a report is: the page, and beside it the other files."""
    page, *others = paths
    return f"report: {page} (also {', '.join(path.name for path in others)})"


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def deliver(text: str, out: Path | None) -> None:
    """Print a report, or write it and say where.

    Raises:
        ResultError: it cannot be written.
    """
    from hjepa_eval.report.formats.named import write_output
    from hjepa_eval.results.text import visible

    if out is None:
        print(text, end="")
    else:
        # A table is drawn for stdout, which may be a terminal with colours; a file is none.
        print(f"written: {visible(str(write_output(out, _COLOURS.sub('', text))))}", file=sys.stderr)

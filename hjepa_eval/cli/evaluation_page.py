"""The HTML page: records with what lies beside them; what is damaged there is left out with a word, not the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hjepa_eval.cli.console import say_error
from hjepa_eval.errors import ResultError

if TYPE_CHECKING:
    from hjepa_eval.report.model_pairs import Located
    from hjepa_eval.results import Record

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
    from hjepa_eval.report.model_pairs import Located

    return write_located([Located(record, results) for record in records], [results], folder / PAGE, images=images)


def write_located(located: Sequence[Located], paths: Sequence[Path], out: Path, *, images: bool = True) -> Path:
    """Write the page of records of one dataset and return its path; a line on stderr for each damaged file beside them.

    Args:
        located: the records.
        paths: folders and files where their galleries lie.
        out: the page.
        images: show the galleries of these records, if there are any.

    Raises:
        ResultError: the page cannot be written.
    """
    from hjepa_eval.report.gallery_files import find_galleries
    from hjepa_eval.report.page import write_page

    records = [each.record for each in located]
    galleries = find_galleries(paths, records, damaged=_say_left_out) if images else []
    for each in located:
        if each.record.predictions is not None:
            try:
                _ = each.samples
            except ResultError as error:
                _say_left_out(error)
    return write_page(located, galleries, out)


def _say_left_out(error: ResultError) -> None:
    say_error(f"left out of the page: {error}")


def where_it_is(paths: Sequence[Path]) -> str:
    """Return the line that says where a report is: the page, and beside it the other files."""
    page, *others = paths
    return f"report: {page} (also {', '.join(path.name for path in others)})"

"""The HTML page of one evaluation: its own records and galleries, whatever else lies in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hjepa_eval.results import Record

PAGE = "report.html"


def write_evaluation_page(records: Sequence[Record], folder: Path, *, results: Path, images: bool = True) -> Path:
    """Write `report.html` into a folder and return its path.

    Args:
        records: of the evaluation.
        folder: where the page goes.
        results: where the records, their outcomes and their galleries lie.
        images: show the galleries of these records, if there are any.

    Raises:
        ResultError: a gallery cannot be read, or the page cannot be written.
    """
    from hjepa_eval.report.gallery import find_galleries
    from hjepa_eval.report.model_pairs import Located
    from hjepa_eval.report.page import write_page

    galleries = find_galleries([results], records) if images else []
    return write_page([Located(record, results) for record in records], galleries, folder / PAGE)


def where_it_is(paths: Sequence[Path]) -> str:
    """Return the line that says where a report is: the page, and beside it the other files."""
    page, *others = paths
    return f"report: {page} (also {', '.join(path.name for path in others)})"

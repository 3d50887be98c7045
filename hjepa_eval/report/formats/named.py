"""The formats of a report as text, by name, and the files they write: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.report.formats.grids import latex_grid, markdown_grid, text_grid
from hjepa_eval.report.formats.latex import distinct_labels, label, latex
from hjepa_eval.report.formats.markdown import markdown
from hjepa_eval.report.formats.terminal import bare, brief, terminal
from hjepa_eval.report.formats.tidy import as_csv, as_json
from hjepa_eval.report.tables.grid import Grid
from hjepa_eval.report.tables.selection import Selection, by_data, select_records
from hjepa_eval.report.token_grids import token_grids
from hjepa_eval.results.records import Record
from hjepa_eval.results.text import markdown_text


def _terminal(selection: Selection) -> str:
    return terminal(selection) + "\n".join(_grids(selection, text_grid))


def _bare(selection: Selection) -> str:
    return bare(selection) + "\n".join(_grids(selection, text_grid))


def _brief(selection: Selection, *, more: str) -> str:
    return brief(selection, more=more) + "\n".join(_grids(selection, text_grid))


def _markdown(selection: Selection) -> str:
    grids = token_grids(selection.records)
    more = [line for grid in grids for line in ("", f"**{markdown_text(grid.title)}**", "", *markdown_grid(grid))]
    return markdown(selection) + "\n".join(more)


def _latex(selection: Selection) -> str:
    tables = [
        latex_grid(grid, f"{grid.title}.", f"tokens-{label(grid.title).lower()}", ())
        for grid in token_grids(selection.records)
    ]
    return latex(selection) + "".join(f"{line}\n" for table in tables for line in table)


def _grids(selection: Selection, lines: Callable[[Grid], list[str]]) -> list[str]:
    return [line for grid in token_grids(selection.records) for line in lines(grid)]


def brief_table(records: Sequence[Record], *, more: str) -> str:
    """Return a table per dataset for a screen; `more` says where the rest is."""
    return _per_dataset(partial(_brief, more=more))(records)


def quiet_table(records: Sequence[Record]) -> str:
    """Return a table per dataset, and what makes a number of it doubtful."""
    return _per_dataset(_bare)(records)


def _per_dataset(table: Callable[[Selection], str]) -> Callable[[Sequence[Record]], str]:
    """Return a function that gives one table per dataset, one below the other."""
    return lambda records: "\n".join(table(select_records(part)) for part in by_data(records))


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "table": _per_dataset(_terminal),
    "md": _per_dataset(_markdown),
    "csv": as_csv,
    "json": as_json,
    "latex": lambda records: distinct_labels(_per_dataset(_latex)(records)),
}


def write_output(path: Path, content: str | bytes) -> Path:
    """Write a report and return its path.

    Raises:
        ResultError: it cannot be written; no part of it is left.
    """
    # Bytes of a file name that are no UTF-8 come as lone surrogates, which no encoding has.
    written = content.encode(errors="replace") if isinstance(content, str) else content
    try:
        write_atomically(path, written)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another with --out") from None
    return path

"""A report of records as text or as a file, in the format that its name says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hjepa_eval.errors import unknown
from hjepa_eval.report.formats.named import FORMATS, write_output
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import check_versions, keep, locate
from hjepa_eval.results.files import find_galleries

# Endings that are no format's name.
_ENDINGS = {"": "table", "txt": "table", "tex": "latex", "htm": "html", "markdown": "md"}


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


def report(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    format: str | None = None,
    out: str | Path | None = None,
    dataset: str | None = None,
    models: Sequence[str] = (),
) -> str:
    """Return a report of the records in files and folders, or write it and return the path.

    Args:
        results: one path or several.
        format: `table`, `md`, `csv`, `json`, `latex` or `html`; by `out`'s ending when not given.
        out: file to write.
        dataset: only records of this dataset.
        models: only these models beside the baselines.

    Raises:
        ResultError: a file cannot be read or written, or records do not belong together.
        UnknownNameError: a format, a dataset or a model has no such name.
    """
    paths = [Path(path) for path in ([results] if isinstance(results, str | Path) else results)]
    located = keep(locate(paths), dataset=dataset, models=models)
    check_versions([entry.record for entry in located], [entry.path or entry.folder for entry in located])
    chosen = choose_format(format, None if out is None else Path(out), (*FORMATS, "html"))
    return write_report(located, chosen, None if out is None else Path(out), paths)


def write_report(located: Sequence[Located], chosen: str, out: Path | None, paths: Sequence[Path] = ()) -> str:
    """Return a report of a format as text, or write it and return its path.

    Args:
        located: the records.
        chosen: the format, `html` or one of `FORMATS`.
        out: file to write.
        paths: files and folders in which galleries of the records may lie.

    Raises:
        ResultError: it cannot be made or not be written.
    """
    records = [entry.record for entry in located]
    if chosen == "html":
        from hjepa_eval.report.page.page import build_page

        galleries = find_galleries(paths, records, damaged=lambda error: None) if paths else []
        text = build_page(located, galleries)
    else:
        text = FORMATS[chosen](records)
    return text if out is None else str(write_output(out, text))

"""Where galleries lie: in folders and beside record files, those of the records wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hjepa_eval.errors import ResultError
from hjepa_eval.results.gallery import SUFFIX, Gallery, read_gallery
from hjepa_eval.results.records import Record


def find_galleries(
    paths: Sequence[Path],
    records: Sequence[Record] | None = None,
    *,
    damaged: Callable[[ResultError], None] | None = None,
) -> list[Gallery]:
    """Return the galleries in folders, and beside record files; there may be none.

    Args:
        paths: folders and files.
        records: only galleries of the same models and stores as these; others are not even read. None: all.
        damaged: told about each that cannot be read, which is then left out.

    Raises:
        ResultError: one cannot be read, and nobody is to be told.
    """
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    # As with records: a demo's folder keeps its own below.
    places = dict.fromkeys(folder / "results" if (folder / "results").is_dir() else folder for folder in folders)
    files = [file for folder in places for file in sorted(folder.glob(f"*{SUFFIX}"))]
    if records is None:
        return list(_read(files, damaged))
    wanted = {(one.model.name, one.extraction.train_store, one.extraction.test_store) for one in records}
    ends = tuple(f"{test_store[:8]}{SUFFIX}" for _, _, test_store in wanted)
    found = _read([file for file in files if file.name.endswith(ends)], damaged)
    return [one for one in found if (one.model, one.train_store, one.test_store) in wanted]


def _read(files: Sequence[Path], damaged: Callable[[ResultError], None] | None) -> Iterator[Gallery]:
    for file in files:
        try:
            yield read_gallery(file)
        except ResultError as error:
            if damaged is None:
                raise
            damaged(error)

"""Records and galleries in files: written whole or not at all, read with a look at all that must hold of them."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hjepa_eval.config import describe_problems
from hjepa_eval.errors import ResultError, first_few
from hjepa_eval.features.fingerprint import hash_json, parse_json, write_atomically
from hjepa_eval.results.checks import not_finite, record_problems
from hjepa_eval.results.gallery import SUFFIX, Gallery, read_gallery
from hjepa_eval.results.profiles import PROFILE_SUFFIX
from hjepa_eval.results.records import CHECKSUM_SINCE, SCHEMA_VERSION, Record

# As `Record.file_name` makes them.
_FILES = "*__*__*.json"
_FEW = 3
# The sha256 of a record's JSON without this key, in canonical form.
_CHECKSUM = "sha256"
DocumentT = TypeVar("DocumentT", bound=BaseModel)


def check_folder(folder: Path) -> None:
    """Check, before any work, that results can be written into a folder.

    Raises:
        ResultError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None


def write_record(record: Record, folder: Path) -> Path:
    """Write a record into a folder, with the checksum of its content, and return its path.

    Raises:
        ResultError: the folder cannot be written, or a number is not finite; no part of a file is left.
    """
    return write_document(record, folder / record.file_name)


def read_record(path: Path) -> Record:
    """Return the record in a file.

    Records of before schema 4 have no checksum; all that can be checked without one holds of them too.

    Raises:
        ResultError: the file cannot be read, is no record, is newer than this program, or was changed; the message
            names the fields that do not hold.
    """
    content = _read_json(path)
    checked = content.get("schema_version", 0) >= CHECKSUM_SINCE
    return check_document(content, path, Record, record_problems, again="run that probe again", checksum=checked)


def write_document(document: BaseModel, path: Path) -> Path:
    """Write a document as JSON, with the checksum of its content, and return its path.

    Raises:
        ResultError: it cannot be written, or a number is not finite; no part of a file is left.
    """
    wrong = not_finite(document.model_dump())
    if wrong:
        raise ResultError(f"{path} is not written: {first_few(wrong, _FEW)}")
    # As it will be read: keys of JSON are words.
    content = json.loads(json.dumps(document.model_dump(mode="json")))
    text = json.dumps({**content, _CHECKSUM: hash_json(content)}, indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None
    return path


def check_document(
    content: dict[str, Any],
    path: Path,
    schema: type[DocumentT],
    problems: Callable[[DocumentT], Iterable[str]],
    *,
    again: str,
    checksum: bool = True,
) -> DocumentT:
    """Return the document that a file's content is.

    Args:
        content: of the file, with the checksum of the rest.
        path: of the file, for messages.
        schema: what it must be.
        problems: gives what cannot be so in a document of the schema.
        again: how to make one anew.
        checksum: it must have one.

    Raises:
        ResultError: it was changed after it was written; the message names the fields that do not hold.
    """
    edited = f"it was changed after it was written; {again}"
    stated = content.pop(_CHECKSUM, None)
    wrong = not_finite(content)
    if wrong:
        raise ResultError(f"{path}: {first_few(wrong, _FEW)}; {edited}")
    try:
        document = schema.model_validate(content)
    except ValidationError as error:
        raise ResultError(describe_problems(schema, error, str(path))) from None
    wrong = list(problems(document))
    if wrong:
        raise ResultError(f"{path}: {first_few(wrong, _FEW)}; {edited}")
    if checksum and stated is None:
        raise ResultError(f"{path} has no {_CHECKSUM}, the checksum of its content; {edited}")
    if stated is not None and stated != hash_json(content):
        raise ResultError(f"{path} does not have the content that its {_CHECKSUM} is of; {edited}")
    return document


def _read_json(path: Path) -> dict[str, Any]:
    """Return what is in the file of a record, of a version that this program reads."""
    if path.suffix.lower() != ".json":
        raise ResultError(f"{path} is no result record: those are .json files; name one, or their folder")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ResultError(f"cannot read the result {path}: {why}") from None
    version = content.get("schema_version") if isinstance(content, dict) and "probe" in content else None
    if isinstance(content, dict) and content.get("kind") == "profile":
        raise ResultError(
            f"{path} is a profile, no record of a probe; name its folder, as in hjepa report {path.parent}"
        )
    if not isinstance(version, int) or isinstance(version, bool):
        raise ResultError(f"{path} is not a result record of hjepa (no probe and schema_version)")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}; update hjepa"
        )
    return dict(content)


def record_files(paths: Sequence[Path]) -> list[Path]:
    """Return the record files that files and folders name, in the order given, those of a folder by name.

    Raises:
        ResultError: a path does not exist, or there are none at all.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ResultError(f"no result file or folder {path}; hjepa eval writes one")
        # Profiles lie beside records and have their own reader.
        listed = (file for file in _record_folder(path).glob("*.json") if not file.name.endswith(PROFILE_SUFFIX))
        files += sorted(listed) if path.is_dir() else [path]
    if not files:
        raise ResultError(f"no result records in {', '.join(map(str, paths))}{_below(paths)}")
    return list({file.resolve(): file for file in reversed(files)}.values())[::-1]  # A file named twice is one record.


def _record_folder(path: Path) -> Path:
    """Return the folder of records in a folder: a demo keeps them below, beside the run's own JSON files."""
    return path / "results" if (path / "results").is_dir() else path


def _below(paths: Sequence[Path]) -> str:
    """Return the folders below that hold records, with the command that takes them; without any what writes some."""
    below = {file.parent for path in paths for depth in ("*", "*/*") for file in path.glob(f"{depth}/{_FILES}")}
    if not below:
        return "; hjepa eval writes some"
    folders = sorted(below)
    named = shlex.join(map(str, folders[:_FEW]))
    return f" itself, but in {first_few(folders, _FEW)}; name one or several, as in hjepa report {named}"


def find_records(paths: Sequence[Path]) -> list[Record]:
    """Return the records in files and folders, in the order given, those of a folder by name.

    Raises:
        ResultError: a path does not exist, a file is no record, or there are none at all.
    """
    return [read_record(file) for file in record_files(paths)]


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
    folders = dict.fromkeys(_record_folder(path if path.is_dir() else path.parent) for path in paths)
    files = [file for folder in folders for file in sorted(folder.glob(f"*{SUFFIX}"))]
    if records is None:
        return list(_read(files, damaged))
    wanted = {(record.model.name, record.extraction.train_store, record.extraction.test_store) for record in records}
    ends = tuple(f"{test_store[:8]}{SUFFIX}" for _, _, test_store in wanted)
    galleries = _read([file for file in files if file.name.endswith(ends)], damaged)
    return [gallery for gallery in galleries if (gallery.model, gallery.train_store, gallery.test_store) in wanted]


def _read(files: Sequence[Path], damaged: Callable[[ResultError], None] | None) -> Iterator[Gallery]:
    for file in files:
        try:
            yield read_gallery(file)
        except ResultError as error:
            if damaged is None:
                raise
            damaged(error)

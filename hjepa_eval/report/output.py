"""Files that reports write: whole or not at all, with one message where they cannot be."""

from __future__ import annotations

from pathlib import Path

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import write_atomically


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

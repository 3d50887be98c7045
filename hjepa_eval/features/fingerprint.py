"""Fingerprints: sha256 of what a number depends on, and a memo so that unchanged files are not read twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.errors import DataError


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_json(value: Any) -> str:
    """Return the sha256 hex digest of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def fingerprint_files(root: Path, names: Sequence[str], stats: Sequence[os.stat_result], memo: Path | None) -> str:
    """Return the sha256 over the names and the content of files, in the order given.

    The content is read once: as long as every size and modification time stays, the memo answers.

    Args:
        root: folder that the names are relative to.
        names: paths with `/`.
        stats: one per name.
        memo: folder for remembered fingerprints; None reads every time.

    Raises:
        DataError: a file cannot be read.
    """
    entries = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    signature = hash_json([str(root.resolve()), entries])
    remembered = memo / f"{signature[:32]}.json" if memo is not None else None
    if remembered is not None and remembered.is_file():
        try:
            record = json.loads(remembered.read_text())
        except (OSError, ValueError):
            record = {}  # A damaged memo costs a second reading, nothing else.
        if record.get("signature") == signature:
            return str(record["fingerprint"])
    digest = hashlib.sha256()
    for name in names:
        try:
            content = (root / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {root / name}: {error.strerror}; check the file and its permissions"
            ) from None
        digest.update(f"{name}|{hashlib.sha256(content).hexdigest()}\n".encode(errors="surrogateescape"))
    fingerprint = digest.hexdigest()
    if remembered is not None:
        try:
            write_atomically(remembered, canonical_json({"signature": signature, "fingerprint": fingerprint}).encode())
        except OSError:
            return fingerprint  # An unwritable memo costs a second reading, nothing else.
    return fingerprint

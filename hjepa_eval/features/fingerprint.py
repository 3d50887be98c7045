"""Fingerprints: sha256 of what a number depends on, and a memo so that unchanged files are not read twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from hjepa_eval.features.claims import alone

_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for equal values: sorted keys, no spaces, no NaN; it can always be encoded."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return escape_surrogates(text)


def escape_surrogates(text: str) -> str:
    r"""Return JSON text with lone surrogates, which stand for bytes of a file name that are no UTF-8, as `\udcff`."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def hash_json(value: Any) -> str:
    """Return the sha256 hex digest of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part; its mode follows the umask.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not built from the file's name, which may already be as long as a name can be.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fingerprint_files(root: Path, names: Sequence[str], *, stats: Sequence[os.stat_result], memo: Path | None) -> str:
    """Return the sha256 over the names and the content of files, in the order given.

    The content is read once: as long as every file's inode, size, modification and change time stay, the memo answers.
    A file that cannot be read counts as `unreadable`; it is read again every time, so that it counts once it is mended.
    What is no regular file counts so too, but its status alone says that, so the memo holds.

    Args:
        root: folder that the names are relative to.
        names: paths with `/`.
        stats: one per name.
        memo: folder for remembered fingerprints; None reads every time.
    """
    signature = _signature(root, names, stats)
    remembered = memo / f"{signature[:32]}.json" if memo is not None else None
    known = _recall(remembered, signature) if remembered is not None else None
    if known is not None:
        return known
    if remembered is None:
        return _read_all(root, names, stats)[0]
    with alone(remembered):
        known = _recall(remembered, signature)  # Another process may have read all while this one waited.
        if known is not None:
            return known
        fingerprint, whole = _read_all(root, names, stats)
        if whole:
            record = canonical_json({"signature": signature, "fingerprint": fingerprint, "root": str(root.resolve())})
            # An unwritable memo costs a second reading, nothing else.
            with contextlib.suppress(OSError):
                write_atomically(remembered, record.encode())
    return fingerprint


def _read_all(root: Path, names: Sequence[str], stats: Sequence[os.stat_result]) -> tuple[str, bool]:
    """Return the sha256 over names and contents, and whether every regular file could be read."""
    digest = hashlib.sha256()
    whole = True
    for name, status in zip(names, stats, strict=True):
        content = _content_hash(root / name, status)
        whole &= content is not None or not stat.S_ISREG(status.st_mode)
        digest.update(f"{name}|{content or 'unreadable'}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), whole


def _signature(root: Path, names: Sequence[str], stats: Sequence[os.stat_result]) -> str:
    """Return the sha256 of where the files are and of their statuses, which a change of content cannot keep."""
    # No file name holds NUL. Text, since some file systems have inodes beyond int64; half the time that JSON takes.
    digest = hashlib.sha256("\0".join([str(root.resolve()), *names]).encode(errors="surrogateescape"))
    for field in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"):
        digest.update(("\0" + " ".join(map(str, map(attrgetter(field), stats)))).encode())
    return digest.hexdigest()


def _content_hash(path: Path, status: os.stat_result) -> str | None:
    """Return the sha256 of a file's content, or None for one that cannot be read."""
    if not stat.S_ISREG(status.st_mode):
        return None  # A link that leads nowhere, or a pipe, whose reading would never end.
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _recall(remembered: Path, signature: str) -> str | None:
    """Return the remembered fingerprint, or None; a damaged memo costs a second reading, nothing else."""
    try:
        record = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("signature") != signature:
        return None
    fingerprint = record.get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return where two nested JSON values differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if canonical_json(old) == canonical_json(new) else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]

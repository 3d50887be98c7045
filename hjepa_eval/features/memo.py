"""Remembered answers about files: found by a signature of what the answer depends on, never trusted without it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from hjepa_eval.features.fingerprint import canonical_json, write_atomically


def file_state(status: os.stat_result) -> list[int]:
    """Return what changes whenever a file's content does: size, modification and change time in ns, inode."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def memo_file(memo: Path, signature: str) -> Path:
    """Return the file of one answer; who finds the answer may hold `claims.alone` of it meanwhile."""
    return memo / f"{signature[:32]}.json"


def recall(memo: Path | None, signature: str) -> dict[str, Any] | None:
    """Return what was remembered under a signature, or None; a damaged memo costs a second reading, nothing else.

    Args:
        memo: folder of memos; None remembers nothing.
        signature: hex digest of all that the answer depends on, the states of files too.
    """
    if memo is None:
        return None
    try:
        record = json.loads(memo_file(memo, signature).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("signature") != signature:
        return None
    answer = record.get("answer")
    return answer if isinstance(answer, dict) else None


def remember(memo: Path | None, signature: str, answer: dict[str, Any], *, root: Path | None = None) -> None:
    """Remember an answer of JSON values; a memo that cannot be written costs a second reading, nothing else.

    Args:
        memo: folder of memos; None remembers nothing.
        signature: as `recall` will ask for it.
        answer: JSON values.
        root: file or folder that the answer is about; once it is gone, `hjepa cache gc` forgets the answer.
    """
    if memo is not None:
        about = {} if root is None else {"root": str(root.resolve())}
        with contextlib.suppress(OSError):
            content = canonical_json({"signature": signature, "answer": answer, **about})
            write_atomically(memo_file(memo, signature), content.encode())


def lost_root(file: Path) -> str | None:
    """Return what the memo in `file` is about if that is known and gone, else None."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    root = record.get("root") if isinstance(record, dict) else None
    if not isinstance(root, str):
        return None
    try:
        os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return root
    except (OSError, ValueError):  # It is there, but not for this user; or no path at all.
        return None
    return None

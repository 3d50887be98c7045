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


def recall(memo: Path | None, signature: str) -> dict[str, Any] | None:
    """Return what was remembered under a signature, or None; a damaged memo costs a second reading, nothing else."""
    if memo is None:
        return None
    try:
        record = json.loads(_place(memo, signature).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("signature") != signature:
        return None
    answer = record.get("answer")
    return answer if isinstance(answer, dict) else None


def remember(memo: Path | None, signature: str, answer: dict[str, Any]) -> None:
    """Remember an answer of JSON values; a memo that cannot be written costs a second reading, nothing else."""
    if memo is not None:
        with contextlib.suppress(OSError):
            content = canonical_json({"signature": signature, "answer": answer})
            write_atomically(_place(memo, signature), content.encode())


def _place(memo: Path, signature: str) -> Path:
    return memo / f"{signature[:32]}.json"

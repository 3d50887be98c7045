"""Remembered answers about files: found by a signature of what the answer depends on, never trusted without it.

Among them the contents of files as one fingerprint, so that unchanged files are not read twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.features.claims import alone
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


_STATE = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode")
MODE = 4  # The last of them.
_KIND = stat.S_IFMT(0xFFFF)
_LOWEST = 2**64 - 1


def file_states(stats: Sequence[os.stat_result]) -> NDArray[np.uint64]:
    """Return what changes whenever a file's content does, `[N, 5]`: size, two times in ns, inode, and the mode.

    Of numbers beyond 64 bits, which some file systems have, the lowest 64; 40 bytes a file, where a status takes 640.
    """
    values = (value & _LOWEST for status in stats for value in _STATE(status))
    return np.fromiter(values, dtype=np.uint64, count=5 * len(stats)).reshape(-1, 5)


def is_regular(states: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell of each file `[N]` whether it is a regular one: no folder, no pipe, no link that leads nowhere."""
    regular: NDArray[np.bool_] = states[:, MODE] & np.uint64(_KIND) == stat.S_IFREG
    return regular


def fingerprint_files(root: Path, names: Sequence[str], *, states: NDArray[np.uint64], memo: Path | None) -> str:
    """Return the sha256 over the names and the content of files, in the order given.

    The content is read once: as long as every file's inode, size, modification and change time stay, the memo answers.
    A file that cannot be read counts as `unreadable`; it is read again every time, so that it counts once it is mended.
    What is no regular file counts so too, but its status alone says that, so the memo holds.

    Args:
        root: folder that the names are relative to.
        names: paths with `/`.
        states: of each file, as `file_states` gives them.
        memo: folder for remembered fingerprints; None reads every time.
    """
    signature = _signature(root, names, states)
    known = _recall(memo, signature)
    if known is not None:
        return known
    if memo is None:
        return _read_all(root, names, states)[0]
    with alone(memo_file(memo, signature)):
        known = _recall(memo, signature)  # Another process may have read all while this one waited.
        if known is not None:
            return known
        fingerprint, whole = _read_all(root, names, states)
        if whole:
            remember(memo, signature, {"fingerprint": fingerprint}, root=root)
    return fingerprint


def _recall(memo: Path | None, signature: str) -> str | None:
    fingerprint = (recall(memo, signature) or {}).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def _read_all(root: Path, names: Sequence[str], states: NDArray[np.uint64]) -> tuple[str, bool]:
    """Return the sha256 over names and contents, and whether every regular file could be read."""
    digest = hashlib.sha256()
    whole = True
    for name, regular in zip(names, is_regular(states).tolist(), strict=True):
        # What is not regular is a link that leads nowhere, or a pipe, whose reading would never end.
        content = _content_hash(root / name) if regular else None
        whole &= content is not None or not regular
        digest.update(f"{name}|{content or 'unreadable'}\n".encode(errors="surrogateescape"))
    return digest.hexdigest(), whole


def _signature(root: Path, names: Sequence[str], states: NDArray[np.uint64]) -> str:
    """Return the sha256 of where the files are and of their states, which a change of content cannot keep."""
    # No file name holds NUL.
    digest = hashlib.sha256("\0".join([str(root.resolve()), *names, ""]).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(states[:, :MODE]).data)
    return digest.hexdigest()


def _content_hash(path: Path) -> str | None:
    """Return the sha256 of a file's content, or None for one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None

"""Remembered answers about files: found by a signature of what the answer depends on, and covered by a checksum.

Among them the contents of files, as one fingerprint and a digest of each, so that unchanged files are not read twice.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import no_memory
from hjepa_eval.features.claims import alone
from hjepa_eval.features.fingerprint import canonical_json, hash_json, parse_json, read_regular, write_atomically


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
        record = parse_json(memo_file(memo, signature).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("signature") != signature:
        return None
    answer = record.get("answer")
    whole = isinstance(answer, dict) and record.get("sha256") == hash_json(answer)
    return answer if whole else None


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
            content = {"signature": signature, "sha256": hash_json(answer), "answer": answer, **about}
            write_atomically(memo_file(memo, signature), canonical_json(content).encode())


def remembered(
    memo: Path | None,
    signature: str,
    make: Callable[[], dict[str, Any]],
    *,
    root: Path | None = None,
    keep: Callable[[dict[str, Any]], bool] = bool,
) -> dict[str, Any]:
    """Return the answer under a signature; where there is none, one process makes it while all others wait for it.

    Args:
        memo: folder of memos; None makes the answer every time.
        signature: as for `recall`.
        make: gives the answer, as JSON values.
        root: as for `remember`.
        keep: tells whether an answer may be remembered.
    """
    answer = recall(memo, signature)
    if answer is not None or memo is None:
        return make() if answer is None else answer
    with alone(memo_file(memo, signature)):
        answer = recall(memo, signature)  # Another process may have made it while this one waited.
        if answer is None:
            answer = make()
            if keep(answer):
                remember(memo, signature, answer, root=root)
    return answer


def lost_root(file: Path) -> str | None:
    """Return what the memo in `file` is about if that is known and gone, else None."""
    try:
        record = parse_json(file.read_bytes())
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


class FileContents(NamedTuple):
    """What files hold.

    Attributes:
        fingerprint: sha256 over their names and contents.
        digests: `content_digest` of each, uint64 [N]; 0 for one that could not be read.
    """

    fingerprint: str
    digests: NDArray[np.uint64]


def content_digest(content: bytes | memoryview) -> int:
    """Return the first 64 bits of the sha256 of some bytes, which are never 0: that stands for what cannot be read."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") or 1


def pack_digests(digests: NDArray[np.uint64]) -> str:
    """Return digests [N] as text for a memo: 11 bytes each."""
    return base64.b64encode(digests.astype("<u8").tobytes()).decode("ascii")


def unpack_digests(text: str) -> NDArray[np.uint64]:
    """Return the digests [N] that `pack_digests` wrote."""
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


def fingerprint_files(
    root: Path, names: Sequence[str], *, states: NDArray[np.uint64], memo: Path | None
) -> FileContents:
    """Return the sha256 over the names and the content of files, in the order given, and a digest of each.

    The content is read once: as long as every file's inode, size, modification and change time stay, the memo answers.
    A file that cannot be read counts as `unreadable`; it is read again every time, so that it counts once it is mended.
    What is no regular file, or too large for one, counts so too, but its status alone says that, so the memo holds.

    Args:
        root: folder that the names are relative to.
        names: paths with `/`.
        states: of each file, as `file_states` gives them.
        memo: folder for remembered fingerprints; None reads every time.

    Raises:
        MachineError: the memory is used up.
    """
    answer = remembered(
        memo,
        _signature(root, names, states),
        lambda: _read_all(root, names, states),
        root=root,
        keep=lambda made: bool(made["whole"]),
    )
    return FileContents(answer["fingerprint"], unpack_digests(answer["digests"]))


def _read_all(root: Path, names: Sequence[str], states: NDArray[np.uint64]) -> dict[str, Any]:
    """Return the sha256 over names and contents, a digest of each, and whether nothing was unreadable by accident."""
    total = hashlib.sha256()
    digests = np.zeros(len(names), np.uint64)
    whole = True
    for place, (name, regular) in enumerate(zip(names, is_regular(states).tolist(), strict=True)):
        content = None
        if regular:  # Else it is a link that leads nowhere, or a pipe, whose reading would never end.
            try:
                content = hashlib.sha256(read_regular(root / name)).digest()
            except OSError as error:
                whole &= error.errno == errno.EFBIG
            except MemoryError as error:
                raise no_memory(error) from None
        if content is not None:
            digests[place] = int.from_bytes(content[:8], "little") or 1
        total.update(f"{name}|{'unreadable' if content is None else content.hex()}\n".encode(errors="surrogateescape"))
    return {"fingerprint": total.hexdigest(), "digests": pack_digests(digests), "whole": whole}


def _signature(root: Path, names: Sequence[str], states: NDArray[np.uint64]) -> str:
    """Return the sha256 of where the files are and of their states, which a change of content cannot keep."""
    # No file name holds NUL.
    digest = hashlib.sha256("\0".join([str(root.resolve()), *names, ""]).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(states[:, :MODE]).data)
    return digest.hexdigest()

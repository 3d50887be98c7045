"""Fingerprints: sha256 of what a number depends on; JSON and files, written whole and read within bounds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


# No JSON of ours or of a model's comes near them.
_DEEPEST, _LARGEST_JSON = 64, 1 << 30
# Of the image formats that are read, none needs more for the most pixels that are allowed.
MAX_FILE_BYTES = 1 << 29


def parse_json(content: str | bytes, **options: Any) -> Any:
    """Return a JSON value as `json.loads` does, of at most 64 levels of nesting.

    Args:
        content: JSON text; bytes may begin with a byte-order mark.
        options: of `json.loads`.

    Raises:
        ValueError: it is no JSON, nested deeper, has a number of thousands of digits, or is longer than 1 GiB.
    """
    if len(content) > _LARGEST_JSON:
        raise ValueError(f"it has {len(content):,} bytes")
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    # Most documents have fewer brackets than levels are allowed; only others are walked.
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list | tuple)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def read_regular(path: Path, *, most: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a regular file, as many as it had when it was opened.

    What is no regular file, or has no size, as those of /proc, is not waited for.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `most` bytes (EFBIG).
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than the {most:,} allowed", str(path))
        parts, left = [], status.st_size
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part; its mode follows the umask.

    A link stays, and the file that it leads to is written. A device or a pipe would be replaced, so it is refused.

    Raises:
        OSError: the folder cannot be written, the disk is full, or what is there is no file; the old content stays.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):  # A folder is refused by the system.
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
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


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return where two nested JSON values differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if canonical_json(old) == canonical_json(new) else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]

"""Fingerprints: sha256 of what a number depends on, as JSON that is the same for equal values."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
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

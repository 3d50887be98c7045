"""What of the cache can go: what no one can use, and by wish what no one used for long."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hjepa_eval.errors import StoreError
from hjepa_eval.features.cache import (
    CachedStore,
    is_filling,
    is_free,
    list_stores,
    memo_dir,
    remove_store,
    stored_bytes,
)
from hjepa_eval.features.manifest import MANIFEST, read_manifest

_DAY = 86400.0
# A temporary file outside the stores belongs to a living process when it is younger.
_WRITING_SECONDS = 3600.0


@dataclass(frozen=True)
class Garbage:
    """Something that was removed, or would be: a store's folder or a file, its size, and why."""

    path: Path
    bytes: int
    reason: str


def last_used(folder: Path) -> float:
    """Return when the finished store in `folder` was made or last opened, in seconds since the epoch.

    Raises:
        OSError: it has no manifest.
    """
    return (folder / MANIFEST).stat().st_mtime


def collect_garbage(
    cache_dir: Path, *, unused_seconds: float | None = None, max_bytes: int | None = None, dry_run: bool = False
) -> Iterator[Garbage]:
    """Remove what no one can use, and yield each thing once it is gone.

    That is: stores that were never finished or whose manifest cannot be read, unless a process is filling them;
    temporary files and locks of processes that ended; remembered fingerprints of datasets that are gone. A store that
    a process is filling always stays.

    Args:
        cache_dir: where stores lie.
        unused_seconds: also finished stores that were last opened longer ago.
        max_bytes: also the least recently used of the finished stores, until the rest together is not larger.
        dry_run: remove nothing, only tell.

    Raises:
        StoreError: something cannot be removed.
    """
    for store, garbage in [*_unusable(cache_dir), *_unused(cache_dir, unused_seconds, max_bytes)]:
        if dry_run or _remove_unless_used(store):
            yield garbage
    for garbage in [*_temporary_files(cache_dir), *_locks(cache_dir), *_memos(cache_dir)]:
        if not dry_run:
            _remove_file(garbage.path)
        yield garbage
    if not dry_run:
        _remove_empty_folders(cache_dir)


def _unusable(cache_dir: Path) -> Iterator[tuple[CachedStore, Garbage]]:
    for store in list_stores(cache_dir):
        if store.manifest is None and not is_filling(store.folder):
            reason = "its manifest cannot be read" if (store.folder / MANIFEST).exists() else "unfinished"
            yield store, Garbage(store.folder, stored_bytes(store.folder), reason)


def _unused(
    cache_dir: Path, unused_seconds: float | None, max_bytes: int | None
) -> Iterator[tuple[CachedStore, Garbage]]:
    """Yield what is too old or too much, the least recently used first."""
    found: list[tuple[float, int, CachedStore]] = []
    for store in list_stores(cache_dir):
        with contextlib.suppress(OSError):  # It has just been removed.
            if store.manifest is not None:
                found.append((last_used(store.folder), stored_bytes(store.folder), store))
    total = sum(size for _, size, _ in found)
    for used, size, store in sorted(found, key=lambda item: item[0]):
        age = time.time() - used
        if unused_seconds is not None and age > unused_seconds:
            reason = f"not used for {age / _DAY:.0f} days"
        elif max_bytes is not None and total > max_bytes:
            reason = "least recently used"
        else:
            continue
        if not is_filling(store.folder):
            total -= size
            yield store, Garbage(store.folder, size, reason)


def _remove_unless_used(store: CachedStore) -> bool:
    """Remove a store unless someone finished or filled it since it was listed."""
    finished = store.manifest is not None
    if is_filling(store.folder) or (not finished and _is_finished(store.folder)):
        return False
    remove_store(store)
    return True


def _is_finished(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except StoreError:
        return False
    return True


def _temporary_files(cache_dir: Path) -> Iterator[Garbage]:
    for file in (cache_dir / "features").glob("*/*/*/.*.tmp"):
        if not is_filling(file.parent):
            yield Garbage(file, file.stat().st_size, "temporary file")
    for file in memo_dir(cache_dir).glob(".*.tmp"):
        if time.time() - file.stat().st_mtime > _WRITING_SECONDS:
            yield Garbage(file, file.stat().st_size, "temporary file")


def _locks(cache_dir: Path) -> Iterator[Garbage]:
    """Yield the locks, and who held them, of stores that are gone or finished."""
    stores = {store.folder.name: store for store in list_stores(cache_dir)}
    for lock in (cache_dir / "features").glob("*/*/*.lock"):
        if not lock.with_suffix("").exists() and is_free(lock):
            yield Garbage(lock, lock.stat().st_size, "lock without a store")
    for lock in (cache_dir / "claims").glob("*.lock"):
        store = stores.get(lock.name.partition("-")[0])
        if (store is None or store.manifest is not None) and is_free(lock):
            for file in (lock, lock.with_suffix(".owner")):
                if file.exists():
                    yield Garbage(file, file.stat().st_size, "claim that no process holds")


def _memos(cache_dir: Path) -> Iterator[Garbage]:
    """Yield remembered fingerprints whose dataset is known to be gone."""
    for file in memo_dir(cache_dir).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(file.read_text(encoding="utf-8"))
            root = record.get("root") if isinstance(record, dict) else None
            if isinstance(root, str) and not Path(root).exists():
                yield Garbage(file, file.stat().st_size, f"fingerprint of {root}, which is gone")


def _remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}; check its permissions") from None


def _remove_empty_folders(cache_dir: Path) -> None:
    for folder in [*(cache_dir / "features").glob("*/*"), *(cache_dir / "features").glob("*")]:
        with contextlib.suppress(OSError):
            folder.rmdir()  # Refused when something is in it.

"""What of the cache can go: what no one can use, and by wish what no one used for long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hjepa_eval.errors import StoreError
from hjepa_eval.features.cache import (
    CachedStore,
    encoders_dir,
    is_filling,
    list_stores,
    memo_dir,
    remove_store,
    stored_bytes,
)
from hjepa_eval.features.claims import is_free
from hjepa_eval.features.manifest import MANIFEST, read_manifest
from hjepa_eval.features.memo import lost_root
from hjepa_eval.features.shards import superseded

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

    That is: stores that were never finished or whose manifest cannot be read; shards that a finished store has put into
    longer ones; temporary files and locks of processes that ended; what is remembered of datasets and encoders that are
    gone. A store that a process is filling always stays.

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
    for find in (_superseded, _temporary_files, _memos, _locks):
        for garbage in list(find(cache_dir)):
            if dry_run or _remove_file(garbage.path):
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
    try:
        remove_store(store)
    except StoreError:
        if is_filling(store.folder):  # Another process has just come to use it.
            return False
        raise
    return True


def _is_finished(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except StoreError:
        return False
    return True


def _superseded(cache_dir: Path) -> Iterator[Garbage]:
    for store in list_stores(cache_dir):
        if store.manifest is not None and not is_filling(store.folder):
            for file in superseded(store.folder, store.manifest.shards):
                yield from _of_file(file, "shard that a longer one took the place of")


def _temporary_files(cache_dir: Path) -> Iterator[Garbage]:
    for file in (cache_dir / "features").glob("*/*/*/.*.tmp"):
        if not is_filling(file.parent):
            yield from _of_file(file, "temporary file")
    for folder in (memo_dir(cache_dir), encoders_dir(cache_dir)):
        for file in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _WRITING_SECONDS:
                    yield from _of_file(file, "temporary file")


def _memos(cache_dir: Path) -> Iterator[Garbage]:
    """Yield what is remembered of files that are known to be gone."""
    for folder in (memo_dir(cache_dir), encoders_dir(cache_dir)):
        for file in folder.glob("*.json"):
            root = lost_root(file)
            if root is not None:
                yield from _of_file(file, f"remembered of {root}, which is gone")


def _locks(cache_dir: Path) -> Iterator[Garbage]:
    """Yield the locks, and who held them, of stores that are gone or finished, and of files that are made but once."""
    stores = {store.folder.name: store for store in list_stores(cache_dir)}
    for lock in (cache_dir / "features").glob("*/*/*.lock"):
        if not lock.with_suffix("").exists() and is_free(lock):
            yield from _of_file(lock, "lock without a store")
    for lock in (cache_dir / "claims").glob("*.lock"):
        store = stores.get(lock.name.partition("-")[0])
        if (store is None or store.manifest is not None) and is_free(lock):
            for file in (lock.with_suffix(".owner"), lock):
                yield from _of_file(file, "claim that no process holds")
    for folder in (memo_dir(cache_dir), encoders_dir(cache_dir)):
        for lock in folder.glob("*.lock"):
            if is_free(lock):
                yield from _of_file(lock, "lock that no process holds")


def _of_file(file: Path, reason: str) -> Iterator[Garbage]:
    """Yield a file as garbage; nothing when it vanished meanwhile."""
    with contextlib.suppress(OSError):
        yield Garbage(file, file.stat().st_size, reason)


def _remove_file(path: Path) -> bool:
    """Remove a file, a lock only while nobody holds it; return whether it went now."""
    try:
        if path.suffix != ".lock":
            path.unlink()
            return True
        with FileLock(path, timeout=0):
            path.unlink()  # Who waits for the lock looks whether its file is still there.
        return True
    except (FileNotFoundError, Timeout):
        return False
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}; check its permissions") from None


def _remove_empty_folders(cache_dir: Path) -> None:
    for folder in [*(cache_dir / "features").glob("*/*"), *(cache_dir / "features").glob("*")]:
        with contextlib.suppress(OSError):
            folder.rmdir()  # Refused when something is in it.

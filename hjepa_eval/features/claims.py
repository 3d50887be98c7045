"""Claims: which process fills which part of a store, told by file locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from hjepa_eval.errors import CheckpointError, StoreError, TrainingError

Say = Callable[[str], None]

FINISH = "finish"


def this_process(rank: int = 0, world_size: int = 1) -> str:
    """Return how claims name this process, for the one that goes on after its death."""
    process = f"process {os.getpid()} on {socket.gethostname()}"
    return process if world_size == 1 else f"rank {rank} of {world_size} ({process})"


@contextmanager
def claim(stores: Sequence[Path], part: str, *, owner: str, say: Say) -> Iterator[bool]:
    """Hold one part of several stores; yields False, at once, when another process holds it in any of them.

    Whoever gets the part must look again what is missing of it: another may just have finished it.

    Args:
        stores: folders of the stores.
        part: name of the part.
        owner: as `this_process` says.
        say: told when the last owner ended without giving the part back.

    Raises:
        StoreError: the cache cannot be written.
    """
    with ExitStack() as held:
        yield all(held.enter_context(_hold(folder, part, owner, say)) for folder in sorted(stores))


@contextmanager
def finishing(store: Path) -> Iterator[None]:
    """Hold the right to write a store's manifest, and forget its claims afterwards; waits for it.

    Raises:
        StoreError: the cache cannot be written.
    """
    lock = FileLock(_lock_file(store, FINISH))
    _acquire(lock, store, wait=True)
    try:
        yield
        for path in _claims(store).glob(f"{store.name}-*.lock"):
            if path == Path(lock.lock_file) or is_free(path):
                _forget(path)
    finally:
        lock.release()


@contextmanager
def present(stores: Sequence[Path]) -> Iterator[None]:
    """Say that this process is at work on stores, between its claims too, so that nobody removes them.

    Raises:
        StoreError: the cache cannot be written.
    """
    with ExitStack() as held:
        for store in sorted(stores):
            held.callback(_enter(store))
        yield


def stay(store: Path) -> Callable[[], None]:
    """Say that this process uses a store until what is returned is called, or it ends; waits while it is removed.

    A cache that can be read only is used without a word: nobody can remove a store of it.
    """
    try:
        leave = _enter(store)
    except StoreError:
        return _nothing
    ending = Path(_lock_file(store, FINISH))
    # Whoever removes a store holds this lock, and looks for users once it has it.
    with contextlib.suppress(OSError):
        if ending.exists():
            FileLock(ending).acquire().lock.release()
    return leave


# Lock files by which this process is present at stores, each with its lock and the number of its uses.
_PRESENT: dict[Path, tuple[FileLock, int]] = {}
_PRESENT_GUARD = threading.Lock()


def _enter(store: Path) -> Callable[[], None]:
    path = _lock_file(store, _presence())
    with _PRESENT_GUARD:
        lock, uses = _PRESENT.get(path, (None, 0))
        if lock is None:
            lock = FileLock(path, thread_local=False)  # Any thread may be the last to leave.
            _acquire(lock, store, wait=True)
        _PRESENT[path] = lock, uses + 1
    return partial(_leave, path, os.getpid())


def _leave(path: Path, process: int) -> None:
    if os.getpid() != process:
        return  # A forked child must not end what its parent says.
    with _PRESENT_GUARD:
        lock, uses = _PRESENT[path]
        if uses > 1:
            _PRESENT[path] = lock, uses - 1
            return
        del _PRESENT[path]
        _forget(path)
        lock.release()


def _nothing() -> None:
    """Leave nothing."""


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the right to make a file of the cache that all processes would make alike; waits for it.

    Where no lock can be made, every process makes the file for itself.
    """
    lock = FileLock(f"{file}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def alone_in_run(folder: Path, *, new: bool = True) -> Iterator[None]:
    """Hold the right to write into a run's folder; its lock ends with the process, however that ends.

    Where the file system has no locks, a second process is not noticed.

    Args:
        folder: of the run.
        new: whether the folder is made when it is not there; else there is nothing to hold then.

    Raises:
        TrainingError: another process holds it.
        CheckpointError: the folder cannot be made.
    """
    try:
        if new:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}; make room, or name another folder") from None
    if not folder.is_dir():
        yield
        return
    lock, note = FileLock(folder / ".lock"), folder / ".owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"{folder} is in use by {_read(note) or 'another process'}; wait until it has ended, or name another folder"
        ) from None
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            note.write_text(this_process(), encoding="utf-8")
        yield
    finally:
        # The lock's file stays: another process may have opened it already, and would hold what nobody sees.
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _read(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except OSError:
        return ""


def filling(store: Path) -> bool:
    """Tell whether another process is filling or using the store in this folder now."""
    own = {_lock_file(store, FINISH), _lock_file(store, _presence())}
    return any(not is_free(path) for path in set(_claims(store).glob(f"{store.name}-*.lock")) - own)


def is_free(path: Path) -> bool:
    """Tell whether no process holds the lock file `path`."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return False
    lock.release()
    return True


@contextmanager
def _hold(store: Path, part: str, owner: str, say: Say) -> Iterator[bool]:
    path = _lock_file(store, part)
    lock = FileLock(path)
    if not _acquire(lock, store, wait=False):
        yield False
        return
    note = path.with_suffix(".owner")
    try:
        if ended := _read(note):
            say(f"{ended} ended while it extracted images {part}; they are done again")
        # The lock is what counts; its owner's name is for people.
        with contextlib.suppress(OSError):
            note.write_text(owner, encoding="utf-8")
        yield True
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _claims(store: Path) -> Path:
    """Return the folder of claims: beside `features` in a cache, beside the store elsewhere."""
    parents = store.absolute().parents
    in_cache = len(parents) > 3 and parents[2].name == "features"
    return (parents[3] if in_cache else parents[0]) / "claims"


def _lock_file(store: Path, part: str) -> Path:
    return _claims(store) / f"{store.name}-{part}.lock"


def _acquire(lock: FileLock, store: Path, *, wait: bool) -> bool:
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    except OSError as error:
        what = "cannot write the cache folder"
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            what = "no file locks (a network folder needs NFS 4, or Lustre mounted with flock) in the cache folder"
        raise StoreError(
            f"{what} {store.parent}: {error.strerror}; choose another with --cache-dir or HJEPA_CACHE"
        ) from None
    return True


def _presence() -> str:
    return f"present-{socket.gethostname()}-{os.getpid()}"


def _forget(lock: Path) -> None:
    """Remove a lock's file and its owner's name; one that cannot be removed is in nobody's way."""
    for path in (lock, lock.with_suffix(".owner")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

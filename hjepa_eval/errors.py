"""The error tree. Every error is a letter to the user: what is wrong, where, what was found, what to do.

The program prints an `HjepaError` as one line and exits with 2; anything else is our own bug and shows a traceback.
"""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class HjepaError(Exception):
    """Raised when the user can mend the cause; the parent of all errors that the program prints in one line."""


class ConfigError(HjepaError):
    """Raised when options, environment or YAML do not fit the schema; its message lists everything wrong."""


class UnknownNameError(HjepaError):
    """Raised when a dataset, model, level, key or protocol has no such name; it suggests the nearest one."""


class DataError(HjepaError):
    """Raised when a dataset is missing, incomplete, empty, or holds an image that cannot be read."""


class ChangedError(DataError):
    """Raised when data change while they are used: no image is left out for that, the work stops."""


class NoSplitError(DataError):
    """Raised when a dataset has no such split, so that who can do without it may go on."""


class MachineError(HjepaError):
    """Raised when the machine lacks what the work needs, such as memory or open files; the data are not to blame."""


class EncoderError(HjepaError):
    """Raised when an encoder cannot be built, or returns something else than its levels declare."""


class UserCodeError(EncoderError):
    """Raised when the user's own code fails; its message has three lines, with the user's frame."""


class CompileError(EncoderError):
    """Raised when torch.compile cannot compile an encoder here, or makes another one of it."""


class CheckpointError(HjepaError):
    """Raised when a checkpoint is absent, damaged, or has missing, unexpected or wrong-shaped tensors."""


class StoreError(HjepaError):
    """Raised when a feature store is absent, incomplete, damaged, edited, or cannot be written."""


class ProbeError(HjepaError):
    """Raised when features or labels do not allow a probe: NaN, one class, too few samples per class."""


class ResultError(HjepaError):
    """Raised when a result record cannot be read, or records that do not belong together meet in one table."""


class TrainingError(HjepaError):
    """Raised when pretraining must stop: a loss that is not finite, collapse, a resume that does not match."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a `name` that is not among the `known` names of its `kind`."""
    names = list(known)
    hint = did_you_mean(name, names)
    return UnknownNameError(f"unknown {kind} {name!r}{hint}; known: {first_few(names, 20)}")


def first_few(items: Iterable[object], count: int = 5) -> str:
    """Return the first `count` items joined by commas, and how many more there are."""
    listed = [str(item) for item in items]
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 80, 80, 40


def shown(value: object) -> str:
    """Return a value as messages show it, cut where it is long: a small file can hold a value of any length."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


_NO_MEMORY = re.compile(
    r"out of memory|failed to map segment|"
    r"can(?:no|')t allocate memory|failed to allocate|bad_alloc|not enough memory|alloc\w* failed"
    r"|cudaMalloc error|cuDNN error: CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is used up, in the words of Python, torch, CUDA, FAISS or the loader."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError | ImportError) and bool(_NO_MEMORY.search(str(error)))
    return told or isinstance(error, MemoryError)


def no_memory(error: BaseException) -> MachineError:
    """Return the error for memory that is used up: where, and what can be made smaller."""
    where = "the GPU's memory" if re.search("cuda|gpu|mps", str(error), re.IGNORECASE) else "this machine's memory"
    return MachineError(
        f"{where} is used up; take a smaller --batch-size, fewer --num-workers, fewer images (--max-samples), "
        "one --level at a time, or --storage fp16; what was finished stays"
    )


def lacks_files(error: OSError) -> bool:
    """Tell whether an error says that this process or machine has too many files open."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


# What the system answers when a disk, a folder or a process has no more to give: nobody's mistake in the code.
_SPENT = {
    errno.EMFILE: "raise 'ulimit -n', or take fewer --num-workers",
    errno.ENFILE: "end other programs, or take fewer --num-workers",
    errno.ENOSPC: "make room there, or name another folder",
    errno.EDQUOT: "make room there, or name another folder",
    errno.EFBIG: "raise 'ulimit -f', or name another folder",
    errno.EROFS: "name another folder",
    errno.EACCES: "change its mode, or name another folder",
    errno.EPERM: "change its mode, or name another folder",
    errno.ESTALE: "look at the network folder, and run the command again",
}


def machine_error(error: BaseException) -> MachineError | None:
    """Return the error for what the machine lacks, such as memory, open files or room; None where it is another."""
    if lacks_memory(error):
        return no_memory(error)
    if not isinstance(error, OSError) or error.errno not in _SPENT:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror}; {_SPENT[error.errno]}; what was finished stays")


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return what `table` has under `name`.

    Raises:
        UnknownNameError: nothing; `kind` says what was looked for.
    """
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]

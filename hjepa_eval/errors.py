"""The error tree. Every error is a letter to the user: what is wrong, where, what was found, what to do.

The program prints an `HjepaError` as one line and exits with 2; anything else is our own bug and shows a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HjepaError(Exception):
    """Raised when the user can mend the cause; the parent of all errors that the program prints in one line."""


class ConfigError(HjepaError):
    """Raised when options, environment or YAML do not fit the schema; its message lists everything wrong."""


class UnknownNameError(HjepaError):
    """Raised when a dataset, model, level, key or protocol has no such name; it suggests the nearest one."""


class DataError(HjepaError):
    """Raised when a dataset is missing, incomplete, empty, or holds an image that cannot be read."""


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

"""Standard output that may be a full disk or a pipe whose reader has gone: the program ends in a line or in silence."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# As of a program that the signal SIGPIPE ends: 128 and its number.
NO_READER = 141


class StdoutError(Exception):
    """Raised when stdout takes no more; not an `HjepaError`, so that nothing on the way treats it as bad input."""


class _Checked:
    """A text stream whose failures to write are told from those of any other file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutError(f"cannot write to stdout: {error.strerror}; make room there, or send it elsewhere") from error


@contextlib.contextmanager
def checked_stdout() -> Iterator[None]:
    """Raise `StdoutError` inside where stdout takes no more, at the latest at the end, when all is flushed.

    Raises:
        StdoutError: caused by the `OSError`.
    """
    stream = sys.stdout
    if stream is None:  # Closed before the program began.
        yield
        return
    checked: Any = _Checked(stream)
    try:
        with contextlib.redirect_stdout(checked):
            yield
            checked.flush()
    except StdoutError:
        # Python flushes once more when it ends, and would complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise

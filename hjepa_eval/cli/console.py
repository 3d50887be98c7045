"""What the program says: results on stdout, which may be a full disk or a closed pipe; all else on stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

import typer

from hjepa_eval.cli.interrupts import ADVICE, STATUS, telling, told
from hjepa_eval.errors import HjepaError, MachineError, UserCodeError, machine_error

P = ParamSpec("P")
T = TypeVar("T")

# Of a line of an error, in characters: a small file can make one of any length.
_LONGEST = 5000


def say_error(message: str) -> None:
    """Print one line on stderr; what data may have put into it moves no cursor."""
    say_error_lines([message])


def say_error_lines(lines: list[str]) -> None:
    """Print an error on stderr: what is wrong, and of the user's own code the frame and the line."""
    from hjepa_eval.results.text import one_line

    shortened = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..." for line in lines]
    print("\n  ".join([f"hjepa: {one_line(shortened[0])}", *map(one_line, shortened[1:])]), file=sys.stderr)


def open_page(path: Path) -> None:
    """Open a file in the browser; where none can be opened, as on a remote machine, say so and go on."""
    import webbrowser

    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        # Whoever asked for a browser wants to know, even with --quiet.
        say_error(f"no browser can be opened here; open {path} yourself")


def where_it_is(paths: Sequence[Path]) -> str:
    """Return the line that says where a report is: the page, and beside it the other files."""
    page, *others = paths
    return f"report: {page} (also {', '.join(path.name for path in others)})"


def say_written(path: str | Path) -> None:
    """Say on stderr which file was asked for and is there."""
    from hjepa_eval.results.text import visible

    print(f"written: {visible(str(path))}", file=sys.stderr)


# Native libraries end the process, without a word, when they get no memory for their own needs.
_LEAST_MEMORY = 100 << 20


def _check_limit() -> None:
    """Check that a limit to this process's memory, as `ulimit -v` sets one, leaves what any work takes."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return
        with open("/proc/self/statm", encoding="ascii") as file:
            left = limit - int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # Neither Linux nor such a limit.
        return
    if left < _LEAST_MEMORY:
        raise MachineError(f"'ulimit -v' leaves this process {max(left, 0) >> 20} MB of memory; raise it")


@contextlib.contextmanager
def told_errors() -> Iterator[None]:
    """Turn the user's errors inside into one line and exit 2, and Ctrl-C into advice and exit 130."""
    try:
        _check_limit()
        yield
    except UserCodeError as error:
        say_error_lines(str(error).splitlines())
        raise typer.Exit(2) from None
    except HjepaError as error:
        say_error(str(error))
        raise typer.Exit(2) from None
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        # torch and FAISS say so in a RuntimeError; any other is our own bug.
        lacking = machine_error(error)
        if lacking is None:
            raise
        say_error(str(lacking))
        raise typer.Exit(2) from None
    except KeyboardInterrupt as interrupt:
        telling()
        say_error(f"interrupted; {str(interrupt) or ADVICE}")
        told()
        raise typer.Exit(STATUS) from None


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with `told_errors` around it."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with told_errors():
            return function(*args, **kwargs)

    return run


def print_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    print(json.dumps(value, indent=2))


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


class _Optional:
    """A text stream whose failures to write are nobody's concern: progress that cannot be shown ends no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Let the program go on inside where stdout or stderr is closed, stderr takes no more, or neither has a character.

    A stream that was closed before the program began is None in Python; what is said there goes nowhere. A character
    that the encoding lacks, as cp1252 of a pipe on Windows lacks the lines of tables, is shown as `?`.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the program ends
        elif hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    stream, optional = sys.stderr, _Optional(sys.stderr)
    sys.stderr = optional
    try:
        yield
    finally:
        sys.stderr = stream
        try:
            stream.flush()
        except (OSError, ValueError):
            # Python flushes once more when it ends, and would complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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

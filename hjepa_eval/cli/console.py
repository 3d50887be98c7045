"""What the program says: results on stdout, which may be a full disk or a closed pipe; all else on stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

import typer

from hjepa_eval.errors import HjepaError

if TYPE_CHECKING:
    from hjepa_eval.evaluation.job import Job, Stage

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED = 130


def say_error(message: str) -> None:
    """Print one line on stderr."""
    print("hjepa: " + " ".join(message.split()), file=sys.stderr)


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Turn the user's errors into one line and exit 2, and Ctrl-C into advice and exit 130."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except HjepaError as error:
            say_error(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt as interrupt:
            advice = str(interrupt) or "nothing that was finished is lost; run the same command again to go on"
            say_error(f"interrupted; {advice}")
            raise typer.Exit(INTERRUPTED) from None

    return run


def print_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    print(json.dumps(value, indent=2))


class Reporter:
    """Takes how far a stage is; called as a function of (done, total, remark)."""

    def __init__(self, job: Job, stage: Stage) -> None:
        """Report to a job about one of its stages."""
        self._job, self._stage = job, stage

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        """Show that `done` of `total` are done."""
        self._job.report(self._stage, done, total, remark)

    def spared(self, why: str) -> None:
        """Say that there was nothing to do: why is shown instead of the seconds, and no estimate learns from them."""
        self._stage.outcome = why


class Talk:
    """Notes and progress on stderr: a live list of stages on a terminal, lines elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool, leader: bool = True) -> None:
        """Choose how much to say; of several ranks one is the `leader`, the others say only what concerns them."""
        self.quiet = quiet
        self.leader = leader
        self._job: Job | None = None

    def note(self, message: str) -> None:
        """Print one line on stderr, unless quiet or not the leader."""
        if self.leader:
            self.alert(message)

    def alert(self, message: str) -> None:
        """Print one line on stderr, unless quiet: what this process alone knows."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    @contextmanager
    def job(self) -> Iterator[Job]:
        """Show all stages inside as one job; inside another job they are part of that one."""
        if self._job is not None:
            yield self._job
            return
        from hjepa_eval.cli.live.display import show_job

        with show_job(shown=self.leader and not self.quiet) as job:
            self._job = job
            try:
                yield job
            finally:
                self._job = None

    def plan(self, stages: Sequence[Stage]) -> None:
        """Say which stages of the job are to come; without a job every stage is shown alone."""
        if self._job is not None:
            self._job.plan(stages)

    @contextmanager
    def progress(self, title: str, unit: str, *, stage: str = "", size: float = 1.0) -> Iterator[Reporter]:
        """Run a stage, and give a function of (done, total, remark) that shows how far it is.

        Args:
            title: what runs, in words that make sense alone.
            unit: what is counted; empty when the count says nothing to a reader.
            stage: its name in the job's plan; the title when nobody planned it.
            size: how much there is to do, as `Stage.size`.
        """
        with self.job() as job:
            running = job.start(stage or title, title=title, unit=unit, size=size)
            try:
                yield Reporter(job, running)
            except BaseException as error:
                job.end(running, "failed" if isinstance(error, Exception) else "interrupted")
                raise
            job.end(running, "done")


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

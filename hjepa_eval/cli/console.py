"""What the program says: results on stdout, progress, notes and errors on stderr."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import typer

from hjepa_eval.errors import HjepaError

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED = 130
PLAIN_SECONDS = 10.0


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


class Talk:
    """Notes and progress on stderr: a live bar on a terminal, lines every ten seconds elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool, leader: bool = True) -> None:
        """Choose how much to say; of several ranks one is the `leader`, the others say only what concerns them."""
        self.quiet = quiet
        self.leader = leader

    def note(self, message: str) -> None:
        """Print one line on stderr, unless quiet or not the leader."""
        if self.leader:
            self.alert(message)

    def alert(self, message: str) -> None:
        """Print one line on stderr, unless quiet: what this process alone knows."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
        """Give a function of (done, total, remark) that shows progress, throughput in `unit` and the time left."""
        if self.quiet or not self.leader:
            yield _silent
        elif sys.stderr.isatty():
            with _bar(title, unit) as report:
                yield report
        else:
            yield _Lines(title, unit)


def _silent(done: int, total: int, remark: str = "") -> None:
    """Show nothing."""


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, rate="", remark="")
        started = time.monotonic()

        def report(done: int, total: int, remark: str = "") -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=_speed(rate, unit), remark=remark)

        yield report


def _speed(rate: float, unit: str) -> str:
    """Return `310 images/s`; nothing where units have no name."""
    return f"{rate:,.0f} {unit}/s" if unit else ""


class _Lines:
    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.said < PLAIN_SECONDS:
            return
        self.said = now
        rate = done / max(now - self.started, 1e-9)
        left = (total - done) / rate if rate else 0.0
        where = f"{done:,}/{total:,}" if self.unit else f"{done / total:.0%}"
        parts = [f"{self.title}: {where}", _speed(rate, self.unit), f"{left:.0f} s left", remark]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

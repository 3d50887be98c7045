"""Ctrl-C at any moment, once or again: one line, exit 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import typer
from folders import ROOT

from hjepa_eval.cli import interrupts
from hjepa_eval.cli.console import told_errors


class Ended(BaseException):
    """Stands for the end of the process."""


def end(status: int) -> NoReturn:
    raise Ended(status)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "_exit", end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert interrupts.take_interrupts()
    yield
    interrupts.give_back()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@contextmanager
def finally_interrupted() -> Iterator[None]:
    try:
        yield
    finally:
        interrupt()


@contextmanager
def turned_into(error: BaseException) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise error from None


@pytest.mark.usefixtures("taken")
def test_interrupts__the_first_unwinds_and_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), told_errors():
        interrupt()
    with pytest.raises(Ended, match="130"):
        interrupt()  # While what is left is cleared away.
    assert capfd.readouterr().err.count("hjepa: interrupted") == 1


@pytest.mark.usefixtures("taken")
def test_interrupts__a_second_one_while_unwinding_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Ended, match="130"), told_errors(), finally_interrupted():
        interrupt()
    assert capfd.readouterr().err.count("hjepa: interrupted; nothing that was finished is lost") == 1


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("error", [ImportError("half a module"), RuntimeError("aborted"), SystemExit(130)])
def test_interrupts__one_that_a_library_turned_into_another_error_is_told(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="130"), interrupts.told_interrupts(), turned_into(error):
        interrupt()
    assert capfd.readouterr().err.count("hjepa: interrupted") == 1


@pytest.mark.usefixtures("taken")
def test_interrupts__one_that_python_would_lose_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    unraisable: Any = SimpleNamespace(exc_type=KeyboardInterrupt)
    with pytest.raises(Ended):
        sys.unraisablehook(unraisable)
    assert "hjepa: interrupted" in capfd.readouterr().err


def test_interrupts__errors_without_an_interrupt_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), interrupts.told_interrupts():
        raise ZeroDivisionError


def test_program__an_interrupt_while_it_is_loaded_is_one_line() -> None:
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer.main': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from hjepa_eval.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "hjepa: interrupted; nothing was begun\n")


def test_program__is_deaf_to_interrupts_under_nohup() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not interrupts.take_interrupts()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

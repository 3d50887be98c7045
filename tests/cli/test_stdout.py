"""The program as a process whose stdout is a full disk, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "hjepa_eval")
FULL = Path("/dev/full")


def ended(*arguments: str, stdout: int) -> tuple[int, str]:
    """Return exit code and stderr of the program."""
    done = subprocess.run([*PROGRAM, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("protocols",)])
def test_stdout__a_full_disk_is_one_line_and_no_success(arguments: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        code, said = ended(*arguments, stdout=full.fileno())
    assert (code, said) == (
        2,
        "hjepa: cannot write to stdout: No space left on device; make room there, or send it elsewhere\n",
    )


def test_stdout__a_pipe_without_reader_is_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert ended("protocols", stdout=writing) == (141, "")
    finally:
        os.close(writing)


def test_stdout__that_was_closed_before_is_no_matter() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "--version"], stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_stdout__that_takes_nothing_loses_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    small = ("--model", "pixels:8", "--dataset", "digits", "--max-samples", "60", "--k", "5")
    with FULL.open("w") as full:
        code, said = ended("knn", *small, "--quiet", stdout=full.fileno())
    assert (code, said.count("\n")) == (2, 1)
    assert len(list(Path("results").glob("*.json"))) == 1

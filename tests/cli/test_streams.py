"""Streams that are closed, full, or lack a character; memory that is used up."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import sys
from pathlib import Path

import pytest
import typer

from hjepa_eval.cli.console import say_error, told_errors, usable_streams

LINES = "────── │ café ✓"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_usable_streams__a_character_that_is_lacking_is_a_question_mark(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors=errors))
    with usable_streams():
        print(LINES + "\udcff")
        sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert text.rstrip() == LINES.encode(encoding, "replace").decode(encoding) + "?"
    monkeypatch.undo()


def test_usable_streams__what_was_closed_before_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", None)
        context.setattr(sys, "stderr", None)
        with usable_streams():
            print(LINES)
            say_error("nobody reads this")
            assert not sys.stderr.isatty()
        sys.stdout.close()
        sys.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_usable_streams__progress_that_cannot_be_shown_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with open("/dev/full", "w", buffering=1) as full, monkeypatch.context() as context:
        context.setattr(sys, "stderr", full)
        with usable_streams():
            for step in range(3):
                print("working", file=sys.stderr, flush=True)
                done.append(step)
    assert done == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (MemoryError(), "this machine's memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "machine's"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "the GPU's memory"),
        (
            RuntimeError("Error in virtual void faiss::gpu::StandardGpuResourcesImpl: cudaMalloc error out of memory"),
            "GPU",
        ),
        (RuntimeError("std::bad_alloc"), "this machine's memory"),
        (OSError(12, "Cannot allocate memory"), "this machine's memory"),
    ],
)
def test_told_errors__memory_that_is_used_up_is_one_line_with_what_to_change(
    capsys: pytest.CaptureFixture[str], error: Exception, where: str
) -> None:
    with pytest.raises(typer.Exit) as done, told_errors():
        raise error
    assert done.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert where in said
    assert "--batch-size" in said


def test_told_errors__other_errors_of_the_program_stay_what_they_are() -> None:
    for error in (RuntimeError("shape '[1]' is invalid"), OSError(5, "Input/output error")):
        with pytest.raises(type(error)), told_errors():
            raise error


def test_say_error__is_never_longer_than_a_screenful(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("x" * 10_000_000)
    assert len(capsys.readouterr().err) < 6000


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EACCES])
def test_told_errors__what_the_system_has_no_more_of_is_one_line(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), told_errors():
        raise OSError(number, os.strerror(number), "some/file")
    assert re.fullmatch(rf"hjepa: some/file: {os.strerror(number)}; .*\n", capsys.readouterr().err)


def test_told_errors__too_little_memory_for_any_work_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 20, 1 << 20))
    with pytest.raises(typer.Exit), told_errors():
        raise AssertionError("work begins")
    assert capsys.readouterr().err == "hjepa: 'ulimit -v' leaves this process 0 MB of memory; raise it\n"

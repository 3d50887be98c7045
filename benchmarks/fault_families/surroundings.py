"""Odd streams, encodings, limits and environments: the work goes on, or one line says why not."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_families.ground import Fault, Ground, Try, copied, counted, refused

ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "no such locale": {"LC_ALL": "xx_YY.UTF-8"},
    "TERM=dumb": {"TERM": "dumb"},
    "no TERM": {"TERM": None},
    "COLUMNS=20": {"COLUMNS": "20"},
    "COLUMNS=0": {"COLUMNS": "0"},
    "COLUMNS=-5": {"COLUMNS": "-5"},
    "COLUMNS=abc": {"COLUMNS": "abc"},
    "no HOME": {"HOME": None},
    "HOME missing": {"HOME": "/nowhere"},
    "TMPDIR missing": {"TMPDIR": "/nowhere"},
    "NO_COLOR": {"NO_COLOR": "1"},
    "FORCE_COLOR": {"FORCE_COLOR": "1"},
    "no PATH": {"PATH": None},
}
BEFORE: dict[str, Callable[[], object]] = {
    "stdin closed": lambda: os.close(0),
    "stdout closed": lambda: _closed("stdout", 1),
    "stderr closed": lambda: _closed("stderr", 2),
    "9 files": lambda: _limit(resource.RLIMIT_NOFILE, 9),
    "20 files": lambda: _limit(resource.RLIMIT_NOFILE, 20),
    "files of 1 kB": lambda: _limit(resource.RLIMIT_FSIZE, 1024),
    "files of 100 kB": lambda: _limit(resource.RLIMIT_FSIZE, 100 << 10),
    "300 MB of memory": lambda: _memory(300 << 20),
    "30 MB of memory": lambda: _memory(30 << 20),
    "clock 30 years back": lambda: _clock(-30 * 365 * 86400),
    "clock 30 years ahead": lambda: _clock(30 * 365 * 86400),
}
STREAMS: dict[str, dict[int, str]] = {
    "stdout full": {1: "/dev/full"},
    "stderr full": {2: "/dev/full"},
    "both full": {1: "/dev/full", 2: "/dev/full"},
}
COMMANDS = ("knn", "report", "pretrain")


def _closed(name: str, number: int) -> None:
    import sys

    os.close(number)
    setattr(sys, name, None)
    setattr(sys, f"__{name}__", None)


def _limit(kind: int, value: int) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python starts
    resource.setrlimit(kind, (value, value))


def _memory(more: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _clock(seconds: float) -> None:
    import time

    now = time.time
    time.time = lambda: now() + seconds


def surroundings(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Each surrounding for a probe, a report and pretraining."""
    cases: list[tuple[str, dict[str, Any]]] = [
        *((name, {"environment": value}) for name, value in ENVIRONMENTS.items()),
        *((name, {"before": value}) for name, value in BEFORE.items()),
        *((name, {"streams": value}) for name, value in STREAMS.items()),
    ]
    tries = [_try(ground, command, name, options) for name, options in cases for command in COMMANDS[:2]]
    tries += [_try(ground, "pretrain", name, options) for name, options in cases if name in SLOW]
    yield from draw.sample(tries, len(counted(len(tries), share)))


# What is tried with pretraining too, which takes seconds.
SLOW = ("cp1252", "stderr closed", "stderr full", "files of 100 kB", "9 files", "clock 30 years back", "COLUMNS=abc")


def _try(ground: Ground, command: str, name: str, options: dict[str, Any]) -> Try:
    def act(scratch: Path) -> str:
        assert ground.numbers
        if command == "report":
            copied(ground.results, scratch / "results")
            ended = ground.do("report", "results", folder=scratch, **options)
            if ended.code == 2 and name == "both full":
                return "refused"  # Nobody can be told why.
            outcome = "refused" if refused(ended) else "said"
            if outcome == "said" and 1 not in options.get("streams", {}) and "closed" not in name and not ended.out:
                raise Fault("exit 0, and nothing on stdout")
            return outcome
        if command == "pretrain":
            words: tuple[object, ...] = ("pretrain", "--config", ground.folder / "settings.yaml", "--out", "run")
            ended = ground.do(*words, folder=scratch, **options)
            if refused(ended):
                return "refused"
            whole = (scratch / "run/encoder.safetensors").read_bytes() == (
                ground.run / "encoder.safetensors"
            ).read_bytes()
            if not whole:
                raise Fault("other weights")
            return "same bytes"
        copied(ground.run, scratch / "run")
        words = ("knn", "--model", "run", "--dataset", ground.dataset, "--out", "out")
        ended = ground.do(*words, folder=scratch, **options)
        if ended.code == 2 and 2 in options.get("streams", {}) and not list((scratch / "out").glob("*.json")):
            raise Fault("no record, since progress could not be shown")
        if ended.code == 2 and ("stderr" in name or "both" in name):
            return "refused"
        return ground.judge(ended, scratch / "out", "run")

    return Try(command, name, act)

"""Kills: SIGKILL, SIGTERM and SIGINT at seeded moments, then the same command again, or --resume."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fault_families.ground import (
    Fault,
    Ground,
    SilentNumber,
    Try,
    copied,
    counted,
    numbers,
    refused,
    same,
    same_tree,
    tree,
)
from fault_families.program import Ended, Run

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def kill_later(process: Run, seconds: float, number: int) -> Ended:
    """Let a run work for some seconds, send it a signal (SIGINT at every other moment twice), and wait for its end."""
    time.sleep(seconds)
    process.send(number)
    if number == signal.SIGINT and int(seconds * 1000) % 2:
        time.sleep(0.02)
        process.send(number)
    ended = process.wait()
    if number == signal.SIGINT and ended.err.count(b"hjepa: interrupted") > 1:
        raise Fault(f"told of one interrupt twice: {ended.err[-300:]!r}")
    if b"Traceback" in ended.err:
        raise Fault(f"traceback after {signal.Signals(number).name}: {ended.err.decode().strip().splitlines()[-1]}")
    return ended


def extract_kills(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Kills of extract, one process or two, once or twice; all files byte for byte those of an undisturbed run."""
    ground.cache  # noqa: B018 - its seconds
    only = ground.folder / "only"
    words = ("extract", "--model", "run", "--dataset", ground.dataset)
    copied(ground.run, only / "run")
    ground.do(*words, folder=only)
    for number in counted(40, share):
        signals = [draw.choice(SIGNALS) for _ in range(1 + number % 2)]
        moments = [draw.random() * ground.seconds_of_extract for _ in signals]
        pair = number % 4 == 3

        def act(scratch: Path, signals: Any = signals, moments: Any = moments, pair: bool = pair) -> str:
            copied(ground.run, scratch / "run")
            for kind, moment in zip(signals, moments, strict=True):
                second = ground.begin(*words, folder=scratch) if pair else None
                kill_later(ground.begin(*words, folder=scratch), moment, kind)
                if second is not None and refused(second.wait()):
                    raise Fault("the second process, which nobody killed, was refused")
            if refused(ground.do(*words, folder=scratch)):
                raise Fault("the rerun was refused")
            same_tree(scratch / "cache/features", only / "cache/features")
            return "same bytes"

        yield Try("extract", f"{[signal.Signals(kind).name for kind in signals]} pair {pair}", act)


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log without what depends on time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key and key != "mfu"} for line in lines]


def same_run(folder: Path, expected: Path) -> None:
    """Raise where two finished runs differ in weights, last checkpoint or log.

    A run that is asked to stop writes a checkpoint where it is, and an older one goes.
    """
    kinds = ("encoder.safetensors", "trainer.safetensors")
    ours, theirs = (
        {name: digest for name, digest in tree(run).items() if name.endswith(kinds)} for run in (folder, expected)
    )
    last = max(name for name in theirs if name.startswith("checkpoints/")).rpartition("/")[0]
    needed = {"encoder.safetensors", *(f"{last}/{kind}" for kind in kinds)}
    names = needed | (ours.keys() & theirs.keys())
    if other := sorted(name for name in names if ours.get(name) != theirs.get(name)):
        raise SilentNumber(f"other weights: {other}")
    same(log(folder), log(expected), "metrics")


def pretrain_kills(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Kills of pretrain, then --resume until it is finished; weights, checkpoints and metrics bit for bit."""
    ground.run  # noqa: B018 - its seconds
    words = ("pretrain", "--config", "settings.yaml", "--out", "run")
    for number in counted(10, share):
        kinds = [draw.choice(SIGNALS) for _ in range(1 + number % 2)]
        moments = [draw.random() * ground.seconds_of_run for _ in kinds]

        def act(scratch: Path, kinds: Any = kinds, moments: Any = moments) -> str:
            shutil.copy(ground.folder / "settings.yaml", scratch)
            for kind, moment in zip(kinds, moments, strict=True):
                kill_later(ground.begin(*again(scratch), folder=scratch), moment, kind)
            if not (scratch / "run/summary.json").is_file():
                ended = ground.do(*again(scratch), folder=scratch)
                if refused(ended):
                    raise Fault(f"the resumed run was refused: {ended.err.decode()[-300:]}")
            same_run(scratch / "run", ground.run)
            return "same bytes"

        def again(scratch: Path) -> tuple[str, ...]:
            begun = (scratch / "run/config.json").is_file()
            return ("pretrain", "--resume", "run") if begun else words

        yield Try("pretrain", f"{[signal.Signals(kind).name for kind in kinds]}", act)


def other_kills(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Kills of linear, eval, report, export and finetune; the same command again gives the same, no half file."""
    ground.evaluation  # noqa: B018
    data = ("--dataset", ground.dataset)
    commands: dict[str, tuple[int, tuple[str, ...]]] = {
        "linear": (8, ("linear", "--model", "run", *data, "--out", "out")),
        "eval": (4, (*ground.eval_words[:-1], "out")),
        "report": (8, ("report", "results", "--format", "html", "--out", "out/report.html")),
        "export": (8, ("export", "run", "--out", "out")),
        "finetune": (4, ("finetune", "--model", "run", *data, "--epochs", "1", "--run", "tuned", "--out", "out")),
    }
    for name, (count, words) in commands.items():
        undisturbed = ground.folder / f"undisturbed-{name}"
        seconds = 0.0
        for number in counted(count, share):
            if not seconds:
                _stand(ground, undisturbed)
                started = time.monotonic()
                if refused(ended := ground.do(*words, folder=undisturbed)):
                    raise RuntimeError(f"undisturbed {name}: {ended.said[-500:]}")
                seconds = time.monotonic() - started
            kind, moment = draw.choice(SIGNALS), draw.random() * seconds

            def act(
                scratch: Path, words: Any = words, kind: Any = kind, moment: Any = moment, u: Any = undisturbed
            ) -> str:
                _stand(ground, scratch)
                kill_later(ground.begin(*words, folder=scratch), moment, kind)
                again = words
                if words[0] == "finetune" and (scratch / "tuned/finetune.json").is_file():
                    again = ("finetune", "--resume", "tuned", "--out", "out")
                ended = ground.do(*again, folder=scratch)
                # What was finished before the signal came is not overwritten; `_same_out` sees whether it is whole.
                if refused(ended) and not any(word in ended.said for word in ("holds", "exists", "nothing is over")):
                    raise Fault(f"the rerun was refused: {ended.err.decode()[-300:]}")
                return _same_out(scratch / "out", u / "out")

            yield Try(name, f"{signal.Signals(kind).name} {number}", act)


def _stand(ground: Ground, folder: Path) -> None:
    """Put the run, the cache and the records where a command looks for them."""
    for source in (ground.run, ground.cache, ground.results):
        copied(source, folder / source.name)


def _same_out(folder: Path, expected: Path) -> str:
    """Compare what two commands wrote: names, records' numbers, weights' bytes."""
    ours, theirs = (
        {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()} for top in (folder, expected)
    )
    if ours != theirs:
        raise Fault(f"files differ: {sorted(ours ^ theirs)[:4]}")
    for name in sorted(ours):
        if name.endswith(".json") and "__" in name:
            same(numbers(folder / name), numbers(expected / name), name)
        elif name.endswith((".safetensors", ".npz")) and (folder / name).read_bytes() != (expected / name).read_bytes():
            raise SilentNumber(f"other bytes in {name}")
    return "same numbers"

"""A run of pretraining that ends before its time, for `test_killed_runs`: FOLDER SETTINGS THREADS KIND STEP NUMBER.

It goes on with the run in FOLDER when there is one. Of each KIND:

- asleep: after STEP it sleeps for NUMBER seconds, in which a signal comes to it.
- computing: it kills itself on the way to STEP, at an operation of that step which the seed NUMBER draws.
- writing: it kills itself at call NUMBER (from 0) of what puts the checkpoint of STEP onto the disk: a file's fsync, or
  a folder's rename.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hjepa_pretrain import loop
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.runs.checkpoint import Checkpoint
from hjepa_pretrain.training.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa_eval.datasets import load_dataset

real_step, real_save = Trainer.train_step, loop.save_checkpoint


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Counted(TorchDispatchMode):
    """Counts operations, and dies at the one with the `number`."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.count, self.number = 0, number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.count == self.number:
            print(f"killed at operation {self.number}, {func}", flush=True)
            die()
        self.count += 1
        return func(*args, **(kwargs or {}))


def die_computing(at: int, seed: int) -> None:
    """Die at an operation that brings the run to step `at`, from 3 on: the step before it tells how many there are."""
    operations: list[int] = []

    def step(self: Trainer, progress: float) -> None:
        number = random.Random(seed).randrange(operations[0]) if self.step + 1 == at else None
        with Counted(number) as counted:
            real_step(self, progress)
        operations[:] = [counted.count]

    Trainer.train_step = step  # type: ignore[method-assign]


def die_writing(at: int, call: int) -> None:
    """Die at a `call` of fsync or rename while the checkpoint of step `at` is saved."""
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            nonlocal calls
            if calls == call:
                print(f"killed at {real.__name__} of {arguments}", flush=True)
                die()
            calls += 1
            return real(*arguments)

        return function

    def save(run_dir: Path, checkpoint: Checkpoint, **options: Any) -> Path:
        if checkpoint.state["step"] == at:
            os.fsync = counted(os.fsync)
            Path.rename = counted(Path.rename)  # type: ignore[method-assign]
        return real_save(run_dir, checkpoint, **options)

    loop.save_checkpoint = save


def main(folder: str, settings: str, threads: str, kind: str, step: str, number: str) -> None:
    torch.set_num_threads(int(threads))
    {"asleep": lambda *_: None, "computing": die_computing, "writing": die_writing}[kind](int(step), int(number))

    def watch(state: loop.Progress) -> None:
        print(state.step, flush=True)
        if kind == "asleep" and state.step == int(step):
            time.sleep(float(number))

    built = build_settings(json.loads(settings), "test")
    run, digits = Path(folder), load_dataset("digits", "train")
    loop.pretrain(built, digits, run_dir=run, resume=run.exists(), progress=watch)


if __name__ == "__main__":
    main(*sys.argv[1:])

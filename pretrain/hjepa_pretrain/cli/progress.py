"""Pretraining as it goes: a live panel on a terminal, lines every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import PLAIN_SECONDS
from hjepa_eval.evaluation.live.view import clock
from hjepa_pretrain.cli.view import TrainingView, number
from hjepa_pretrain.diagnostics.progress import accuracy_text, ties_text

if TYPE_CHECKING:
    from hjepa_pretrain.diagnostics.progress import Progress


def plain_line(progress: Progress) -> str:
    """Return one line for a log file."""
    total = "" if progress.total_steps is None else f"/{progress.total_steps:,}"
    parts = [f"{progress.fraction:.1%}", f"step {progress.step:,}{total}", f"epoch {progress.epoch:.2f}"]
    if "loss" in progress.losses:
        levels = [value for name, value in progress.losses.items() if name.startswith("level_")]
        detail = f" ({'/'.join(number(value, 3) for value in levels)})" if levels else ""
        parts.append(f"loss {number(progress.losses['loss'], 4)}{detail}")
    scores = progress.diagnosis.get("knn", [])
    if any(score is not None for score in scores):
        parts.append("kNN " + "/".join("-" if score is None else f"{100 * score:.1f}" for score in scores))
    if progress.best is not None:
        score = accuracy_text(progress.best["knn"], progress.diagnosis.get("knn_images"))
        parts.append(f"best {score} (level {progress.best['level']}{ties_text(progress.best)})")
    parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.eta_seconds is not None:
        parts.append(f"{clock(progress.eta_seconds)} left")
    return "pretrain: " + ", ".join(parts)


@dataclass(frozen=True)
class Shown:
    """What a run tells its user through.

    Attributes:
        update: takes the state after every step.
        note: takes what the user should know, in words.
    """

    update: Callable[[Progress], None]
    note: Callable[[str], None]


@contextmanager
def show_training(talk: Talk, *, run: str, dataset: str, device: str) -> Iterator[Shown]:
    """Give functions that show a run: live, in plain lines, or not at all, as `talk` and stderr allow."""
    if talk.quiet or not talk.leader:
        yield Shown(_ignore, talk.note)
    elif not sys.stderr.isatty():
        yield Shown(_Lines(), talk.note)
    else:
        view = TrainingView(run, dataset, device)

        def note(message: str) -> None:
            view.note = " ".join(message.split())
            talk.note(message)

        with Live(view, console=Console(stderr=True), refresh_per_second=4, vertical_overflow="crop"):
            yield Shown(view.update, note)


def _ignore(progress: Progress) -> None:
    """Show nothing."""


class _Lines:
    """Prints the first state that has losses, then one every ten seconds, and the last."""

    def __init__(self) -> None:
        self.said = -math.inf

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.fraction < 1.0 and (not progress.losses or now - self.said < PLAIN_SECONDS):
            return
        self.said = now
        print(plain_line(progress), file=sys.stderr, flush=True)

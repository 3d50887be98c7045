"""What a run has found out so far and where it stands: as log line, as progress for who shows it, as state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hjepa_eval.metrics.intervals import wilson
from hjepa_pretrain.diagnostics.alarms import Alarms
from hjepa_pretrain.diagnostics.measuring import Work
from hjepa_pretrain.training.limits import Clock
from hjepa_pretrain.training.steps import Steps


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    Attributes:
        step: steps done.
        total_steps: steps of the whole run; None for a run of minutes.
        fraction: share of the run that is done, in [0, 1].
        losses: mean of each logged term over the last log interval (`loss`, `level_0`, `r2_0`, ...); empty before it.
        diagnosis: the last one, of `diagnostics.diagnose`; empty before it.
        best: the best kNN so far, of `Alarms.best_so_far`; None before the first.
        images_per_second: in this session.
        eta_seconds: until the end, at this speed; None before the first step.
        elapsed: seconds of training over all sessions.
        epoch: passes over the data.
    """

    step: int
    total_steps: int | None
    fraction: float
    losses: dict[str, float]
    diagnosis: dict[str, Any]
    best: dict[str, Any] | None
    images_per_second: float
    eta_seconds: float | None
    elapsed: float
    epoch: float


def accuracy_text(score: float, images: int | None) -> str:
    """Return an accuracy in percent with its 95 % interval over so many `images`: `47.5 [32.9-62.5] of 40`."""
    if not images:
        return f"{100 * score:.1f}"
    interval = wilson(round(score * images), images)
    return f"{100 * score:.1f} [{100 * interval.low:.1f}-{100 * interval.high:.1f}] of {images:,}"


def ties_text(best: Mapping[str, Any]) -> str:
    """Return what images cannot tell from the best: `; tied with level 0, 3 other measurements`, or nothing."""
    levels, steps = best.get("tied_levels", []), best.get("tied_steps", [])
    tied = [f"level {level}" for level in levels]
    if steps:
        tied.append(f"{len(steps)} other measurement{'s' if len(steps) > 1 else ''}")
    return f"; tied with {', '.join(tied)}" if tied else ""


class RunStory:
    """Found at the last log and the last measurement; goes into checkpoints and comes back from them.

    Attributes:
        alarms: judge measurements and know the best.
        losses: mean of each term over the last log interval.
        diagnosis: the last measurement; empty before the first.
        measured_at: its step, None before the first.
        work: arithmetic of a step.
    """

    def __init__(self, alarms: Alarms) -> None:
        """Begin with nothing."""
        self.alarms = alarms
        self.losses: dict[str, float] = {}
        self.diagnosis: dict[str, Any] = {}
        self.measured_at: int | None = None
        self.work = Work()

    @property
    def best_step(self) -> int | None:
        """Step of the best measurement; None before the first."""
        return None if self.alarms.best_so_far is None else self.alarms.best_step

    def line(self, steps: Steps, clock: Clock, *, done: float, measured: bool) -> dict[str, Any]:
        """Return the JSON values of a log line.

        Args:
            steps: after the step that the line is of.
            clock: of the run.
            done: progress that this step was done at.
            measured: whether the line has the last diagnosis, which is of this step.
        """
        state = self.progress(steps, clock)
        return {
            "step": steps.step,
            "epoch": state.epoch,
            "progress": round(done, 6),
            "losses": self.losses,
            "lr": steps.rate(done),
            "momentum": steps.momentum(steps.step - 1, done),
            **(self.diagnosis if measured else {}),
            **self.work.at(clock.steps_per_second(steps.step), ranks=steps.ranks.count),
            "images_per_second": round(state.images_per_second, 1),
            "seconds": round(clock.seconds, 2),
        }

    def progress(self, steps: Steps, clock: Clock) -> Progress:
        """Return what the user is told after a step."""
        return Progress(
            step=steps.step,
            total_steps=steps.total_steps,
            fraction=clock.fraction(steps.step),
            losses=self.losses,
            diagnosis=self.diagnosis,
            best=self.alarms.best_so_far,
            images_per_second=clock.steps_per_second(steps.step) * steps.train.batch_size,
            eta_seconds=clock.seconds_left(steps.step),
            elapsed=clock.seconds,
            epoch=steps.epoch,
        )

    def state(self) -> dict[str, Any]:
        """Return JSON values from which `restore` goes on."""
        return {
            "losses": self.losses,
            "diagnosis": self.diagnosis,
            "alarms": self.alarms.state(),
            "measured_at": self.measured_at,
            "gflop": self.work.gflop,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self.losses, self.diagnosis = dict(state["losses"]), dict(state["diagnosis"])
        self.alarms.restore(state["alarms"])
        self.measured_at, self.work = state.get("measured_at"), Work(state.get("gflop"))

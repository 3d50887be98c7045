"""What a run has found out so far, losses, measurements and the best of them: as log line, progress and state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hjepa_pretrain.alarms import Alarms
from hjepa_pretrain.clock import Clock
from hjepa_pretrain.progress import Progress
from hjepa_pretrain.trainer import Trainer
from hjepa_pretrain.work import Work


class Findings:
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

    def line(self, trainer: Trainer, clock: Clock, *, done: float, measured: bool) -> dict[str, Any]:
        """Return the JSON values of a log line.

        Args:
            trainer: after the step that the line is of.
            clock: of the run.
            done: progress that this step was done at.
            measured: whether the line has the last diagnosis, which is of this step.
        """
        state, timed = self.progress(trainer, clock), trainer.total_steps is None
        return {
            "step": trainer.step,
            "epoch": state.epoch,
            "progress": round(done, 6),
            "losses": self.losses,
            "lr": trainer.rate(done),
            "momentum": trainer.model.ema.momentum(trainer.step - 1, progress=done if timed else None),
            **(self.diagnosis if measured else {}),
            **self.work.at(clock.steps_per_second(trainer.step), ranks=trainer.ranks.count),
            "images_per_second": round(state.images_per_second, 1),
            "seconds": round(clock.seconds, 2),
        }

    def progress(self, trainer: Trainer, clock: Clock) -> Progress:
        """Return what the user is told after a step."""
        return Progress(
            step=trainer.step,
            total_steps=trainer.total_steps,
            fraction=clock.fraction(trainer.step),
            losses=self.losses,
            diagnosis=self.diagnosis,
            best=self.alarms.best_so_far,
            images_per_second=clock.steps_per_second(trainer.step) * trainer.settings.train.batch_size,
            eta_seconds=clock.seconds_left(trainer.step),
            elapsed=clock.seconds,
            epoch=trainer.epoch,
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

"""Where a run stands, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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

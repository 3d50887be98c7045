"""How far a run is: by steps when it is counted in epochs, by the wall clock when it has minutes."""

from __future__ import annotations

import math
import time


class Clock:
    """Time and steps of a run, over all its sessions.

    Attributes:
        total_steps: of the whole run; None for a run of minutes.
        seconds_before: of training in earlier sessions.
        steps_before: done in earlier sessions.
    """

    def __init__(self, *, total_steps: int | None, minutes: float | None) -> None:
        """Prepare; the session's time counts from `start`."""
        self.total_steps = total_steps
        self.seconds_before, self.steps_before = 0.0, 0
        self._limit = 60.0 * (minutes or math.inf)
        self._started: float | None = None

    def start(self) -> None:
        """Begin to count this session's time."""
        self._started = time.monotonic()

    @property
    def session(self) -> float:
        """Seconds of training in this session."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @property
    def seconds(self) -> float:
        """Seconds of training over all sessions."""
        return self.seconds_before + self.session

    def fraction(self, step: int) -> float:
        """Return the share of the run that is done after `step` steps, in [0, 1]."""
        if self.total_steps is not None:
            return min(step / self.total_steps, 1.0)
        return min(self.seconds / self._limit, 1.0)

    def steps_per_second(self, step: int) -> float:
        """Return the mean speed of this session."""
        return (step - self.steps_before) / max(self.session, 1e-9)

    def seconds_left(self, step: int) -> float | None:
        """Return the time to the end at this session's speed; None before its first step."""
        if step == self.steps_before:
            return None
        if self.total_steps is None:
            return max(self._limit - self.seconds, 0.0)
        return (self.total_steps - step) / self.steps_per_second(step)

"""When a run ends: by steps, by the clock, or by Ctrl-C or a scheduler's notice, between two steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the time of the body count for nothing: what is measured takes none of the training's minutes."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self._started is not None:
                self._started += time.monotonic() - began

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


_SAME_SECONDS = 1.0


@contextmanager
def interrupt_between_steps(*, alone: bool = True) -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back, and give a function that tells whether there was one; a second Ctrl-C does not wait.

    SIGTERM, with which timeout and SLURM end a job, counts as Ctrl-C when the process is `alone`; among several ranks
    it comes from a launcher that wants them gone, since one of them failed.

    One that follows within a second is the first again: torchrun passes it on to ranks that the terminal told already.
    """
    asked: list[float] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if asked and time.monotonic() - asked[0] > _SAME_SECONDS:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

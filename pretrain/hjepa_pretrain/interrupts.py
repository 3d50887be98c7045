"""Ctrl-C and the end that a scheduler gives notice of, between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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

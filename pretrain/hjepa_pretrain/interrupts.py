"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_SECONDS = 1.0


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back, and give a function that tells whether there was one; a second Ctrl-C does not wait.

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
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)

"""Ctrl-C: the first one unwinds the work, a second one ends the process at once; one line in all, at any moment.

What comes before this module is loaded, and after `main` is left, `__main__` looks after.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

STATUS = 130
ADVICE = "nothing that was finished is lost; run the same command again to go on"


class _Interrupt:
    """What became of Ctrl-C in this process.

    Attributes:
        asked: there was one.
        told: the user was told so.
        process: the one that holds the handlers; forked children end as their parent says.
    """

    def __init__(self) -> None:
        self.asked = self.told = False
        self.process = 0

    def begin(self) -> None:
        """Take Ctrl-C of this process."""
        self.asked = self.told = False
        self.process = os.getpid()
        signal.signal(signal.SIGINT, self.first)
        sys.unraisablehook = self.ignored

    def first(self, number: int, frame: FrameType | None) -> None:
        """Unwind the work; where it is unwound already, do not wait for that."""
        if self.asked and os.getpid() == self.process:
            self.end()
        self.asked = True
        raise KeyboardInterrupt

    def end(self, *_: Any) -> NoReturn:
        """End the process at once, as SIGKILL would: whatever is written is written whole or not at all."""
        self.say(ADVICE)
        os._exit(STATUS)

    def say(self, advice: str) -> None:
        """Say once that there was an interrupt, by system calls alone: any stream may be in the middle of a write."""
        if self.told or os.environ.get("RANK", "0") != "0":
            return
        self.told = True
        with suppress(OSError):
            cursor = "\x1b[?25h" if os.isatty(2) else ""  # A live view hides it.
            os.write(2, f"{cursor}hjepa: interrupted; {advice}\n".encode(errors="replace"))

    def ignored(self, unraisable: Any) -> None:
        """Take an interrupt that Python would lose, since it came while an object was cleared away."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.end()
        sys.__unraisablehook__(unraisable)


_STATE = _Interrupt()


def telling() -> None:
    """Say that the user is about to be told: what is left is to end, at once when asked again."""
    if getattr(signal.getsignal(signal.SIGINT), "__self__", None) is _STATE:
        signal.signal(signal.SIGINT, _STATE.end)


def told() -> None:
    """Say that the user was told."""
    _STATE.told = True


def take_interrupts() -> bool:
    """Take Ctrl-C from Python, until `give_back`; False where it is another's, as under `nohup`."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    _STATE.begin()
    return True


@contextmanager
def told_interrupts() -> Iterator[None]:
    """Turn Ctrl-C inside into one line and exit 130, also where a library made another error of it.

    Raises:
        SystemExit: of the body; 130 after Ctrl-C.
    """
    try:
        yield
    except SystemExit:
        telling()
        if _STATE.asked:  # typer ends in silence where it came while a command was loaded.
            _STATE.say(ADVICE)
        raise
    except BaseException as error:
        if not (_STATE.asked or isinstance(error, KeyboardInterrupt)):
            raise
        telling()
        _STATE.say(ADVICE)
        sys.exit(STATUS)


def give_back() -> None:
    """Give Ctrl-C back to Python: the program was called by another, which goes on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = sys.__unraisablehook__

"""How ranks end together: one line that says which rank could not go on and why, and none that waits forever.

A rank that must stop says why in the store that all share, and waits a moment for the others. When all say the same
(a loss is not finite, Ctrl-C), the leader speaks for them. When a rank is alone with its trouble, it speaks for itself
and ends; its connections close, which wakes those that wait for it. When nothing was said, a rank was killed: the
lowest that is left names it. Ranks that have nothing to add leave with the same exit status and without a word.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from hjepa_eval.errors import HjepaError, TrainingError

_MOMENT = 3.0  # seconds for others to say what they have to
_LOST = ""  # what a rank says that only noticed that another one is gone
_LOST_SIGNS = ("closed by peer", "reset by peer", "gloo", "timed out", "broken pipe", "nccl", "socket", "abort")
INTERRUPTED = "interrupted"


@contextmanager
def ending_together(store: Store, rank: int, count: int) -> Iterator[None]:
    """Let the ranks that share `store` know when the body fails on this `rank` of `count`.

    Raises:
        TrainingError: another rank was killed, or this rank alone could not go on; the message names the rank.
        HjepaError: of the body, when all ranks have the same.
        KeyboardInterrupt: of the body.
        SystemExit: another rank speaks for this one; status 2, or 130 after Ctrl-C.
    """
    try:
        yield
    except BaseException as error:
        said = _all_say(store, _words(error), rank, count)
        ending = _ending(error, said, rank, count)
        if isinstance(ending, SystemExit):
            time.sleep(1.0)  # A launcher ends all ranks when the first one leaves: let that one speak.
        if ending is error:
            raise
        raise ending from None


def _words(error: BaseException) -> str:
    """Return what others need to know about an error; nothing when it only says that another rank is gone."""
    if isinstance(error, HjepaError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    text = str(error)
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in text.lower() for sign in _LOST_SIGNS)
    ):
        return _LOST
    return f"{type(error).__name__}: {text}"


def _all_say(store: Store, words: str, rank: int, count: int) -> dict[int, str]:
    """Say `words`, and return what each rank has said a moment later."""
    said = {rank: words}
    try:
        store.set(str(rank), words)
        until = time.monotonic() + _MOMENT
        while len(said) < count and time.monotonic() < until:
            for other in range(count):
                if other not in said and store.check([str(other)]):
                    said[other] = store.get(str(other)).decode()
            time.sleep(0.02)
        # Without a launcher's agent rank 0 holds the store: it must not leave before those that spoke have listened.
        store.set(_heard(rank), "")
        until = time.monotonic() + _MOMENT
        while rank == 0 and time.monotonic() < until and not store.check([_heard(other) for other in said]):
            time.sleep(0.02)
    except RuntimeError:  # The rank that held the store has left.
        pass
    return said


def _heard(rank: int) -> str:
    """Return the key under which a rank notes that it has read what the others said."""
    return f"{rank} has heard"


def _ending(error: BaseException, said: dict[int, str], rank: int, count: int) -> BaseException:
    """Return what to raise for `error`, by what all ranks `said`."""
    own = said[rank]
    told = {other: words for other, words in said.items() if words != _LOST}
    if not told:
        gone = [str(other) for other in range(count) if other not in said]
        if rank != min(said):
            return SystemExit(2)
        who = (
            f"rank {', '.join(gone)} of {count} ended without a word, as when killed" if gone else "a connection broke"
        )
        return TrainingError(f"{who} ({_reason(error)}); start again with --resume to go on from the last checkpoint")
    if own == _LOST:
        return SystemExit(130 if INTERRUPTED in told.values() else 2)
    if not isinstance(error, HjepaError | KeyboardInterrupt):
        return error  # Our own bug: its traceback is what helps.
    if len(told) == count and set(told.values()) == {own}:
        return error if rank == 0 else SystemExit(130 if own == INTERRUPTED else 2)
    return error if own == INTERRUPTED else TrainingError(f"rank {rank} of {count}: {own}")


def _reason(error: BaseException) -> str:
    """Return the first line of an error, and the last one where nccl says there what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    at = lines.index("Last error:") + 1 if "Last error:" in lines else len(lines)
    return " ".join(lines[:1] + lines[at : at + 1])

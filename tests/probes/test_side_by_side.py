"""Fits at the same time."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.side_by_side import side_by_side


def test_side_by_side__results_come_in_order_and_jobs_really_overlap() -> None:
    barrier = threading.Barrier(3, timeout=300)  # Breaks unless all three are running at once.

    def job(number: int) -> int:
        barrier.wait()
        return number

    assert list(side_by_side([lambda n=n: job(n) for n in (3, 1, 2)])) == [3, 1, 2]


def test_side_by_side__what_is_too_large_for_memory_runs_one_after_another() -> None:
    main = threading.current_thread()
    assert list(side_by_side([threading.current_thread] * 2, size=1 << 60)) == [main, main]


def test_side_by_side__threads_are_shared_and_put_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert list(side_by_side([torch.get_num_threads] * 2)) == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_side_by_side__an_error_reaches_the_caller() -> None:
    def fail() -> int:
        raise ProbeError("no")

    with pytest.raises(ProbeError, match="no"):
        list(side_by_side([lambda: 1, fail]))
    assert torch.get_num_threads() >= 1


def test_side_by_side__workers_limit_how_many_run_at_once() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def job() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    assert list(side_by_side([job] * 8, workers=2)) == [None] * 8
    assert most[0] == 2

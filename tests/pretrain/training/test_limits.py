"""The clock of a run counts training, and nothing else."""

from __future__ import annotations

import pytest
from hjepa_pretrain.training import limits
from hjepa_pretrain.training.limits import Clock


def test_clock__what_is_measured_takes_none_of_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    clock = Clock(total_steps=None, minutes=1.0)
    clock.start()
    now[0] += 15.0
    with clock.stopped():
        now[0] += 300.0
    assert clock.seconds == 15.0
    assert clock.fraction(3) == 0.25
    now[0] += 15.0
    assert clock.seconds == 30.0

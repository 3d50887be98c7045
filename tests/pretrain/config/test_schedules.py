from __future__ import annotations

import itertools

import pytest
from hjepa_pretrain.config.schedules import EmaSchedule, learning_rate

from hjepa_eval.errors import ConfigError


@pytest.mark.rows("A5")
@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_ema__rises_monotonically_between_the_right_ends(shape: str) -> None:
    schedule = EmaSchedule(base=0.9, end=0.99, total_steps=101, shape=shape)
    values = [schedule.momentum(step) for step in range(101)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == pytest.approx(0.99)
    assert values[50] == pytest.approx(0.945)
    assert all(a < b for a, b in itertools.pairwise(values))


def test_ema__warmup_is_held_at_the_base() -> None:
    schedule = EmaSchedule(base=0.9, end=1.0, total_steps=21, warmup_steps=10)
    assert {schedule.momentum(step) for step in range(11)} == {0.9}
    assert schedule.momentum(11) > 0.9
    assert schedule.momentum(20) == 1.0


def test_ema__progress_replaces_steps_and_no_length_stays_at_the_base() -> None:
    assert EmaSchedule(base=0.9, end=1.0).momentum(500) == 0.9
    assert EmaSchedule(base=0.9, end=1.0).momentum(500, progress=0.5) == pytest.approx(0.95)
    assert EmaSchedule(base=0.9, end=1.0).momentum(500, progress=1.2) == 1.0


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_ema__progress_begins_after_the_warmup_without_a_jump_at_any_speed(shape: str) -> None:
    schedule = EmaSchedule(base=0.9, end=1.0, warmup_steps=200, shape=shape)
    # Steps of a run of minutes that is slow at first, then fast, then slow again.
    seconds = [3.0] * 100 + [1.0] * 500 + [5.0] * 100
    total, values, used = sum(seconds), [], 0.0
    for step, length in enumerate(seconds):
        values.append(schedule.momentum(step, progress=used / total))
        used += length
    values.append(schedule.momentum(len(seconds), progress=1.0))
    assert set(values[:200]) == {0.9}
    assert values[200] == pytest.approx(0.9)
    assert all(a < b for a, b in itertools.pairwise(values[200:]))
    assert max(b - a for a, b in itertools.pairwise(values)) < 0.002
    assert values[-1] == pytest.approx(1.0)


def test_ema__progress_at_a_steady_speed_is_as_steps() -> None:
    timed = EmaSchedule(base=0.9, end=1.0, warmup_steps=10)
    counted = EmaSchedule(base=0.9, end=1.0, warmup_steps=10, total_steps=41)
    for step in range(41):
        assert timed.momentum(step, progress=step / 40) == pytest.approx(counted.momentum(step))


def test_ema__falling_momentum_is_an_error() -> None:
    with pytest.raises(ConfigError, match="must rise"):
        EmaSchedule(base=0.99, end=0.9)


@pytest.mark.rows("C6")
def test_learning_rate__cosine_warms_up_and_falls_to_the_final_rate() -> None:
    def rate(progress: float) -> float:
        return learning_rate(progress, peak=1.0, warmup=0.1, shape="cosine", final=0.1)

    assert rate(0.0) == 0
    assert rate(0.05) == pytest.approx(0.5)
    assert rate(0.1) == pytest.approx(1.0)
    assert rate(0.55) == pytest.approx(0.55)
    assert rate(1.0) == pytest.approx(0.1)


def test_learning_rate__cooldown_stays_then_falls() -> None:
    def rate(progress: float) -> float:
        return learning_rate(progress, peak=2.0, warmup=0.1, shape="cooldown", cooldown=0.2)

    assert rate(0.5) == rate(0.8) == 2.0
    assert rate(0.9) == pytest.approx(1.0)
    assert rate(1.0) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(0.99, peak=2.0, warmup=0.1, shape="constant") == 2.0

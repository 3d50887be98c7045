from __future__ import annotations

import pytest

from hjepa_eval.config import load
from hjepa_eval.evaluation.job import Job, Left, Stage, time_left
from hjepa_eval.evaluation.live.stages import REPORT, evaluation_stages, extraction_stages
from hjepa_eval.evaluation.settings import EvalSettings


class Silent:
    def began(self) -> None:
        pass

    def reported(self, stage: Stage) -> None:
        pass

    def ended(self, stage: Stage) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def finished(name: str, *, seconds: float, size: float | None, **more: object) -> Stage:
    stage = Stage(name, size=size, state="done", started=5.0, ended=5.0 + seconds)
    for key, value in more.items():
        setattr(stage, key, value)
    return stage


def test_estimate__is_none_before_there_is_something_to_learn_from() -> None:
    assert time_left([Stage("kNN", size=2), Stage("linear", size=2)], 0.0) is None
    assert time_left([], 0.0) is None
    cached = finished("extract train", seconds=0.1, size=50, outcome="from the cache")
    assert time_left([cached, Stage("extract train", size=50)], 0.0) is None


def test_estimate__of_a_waiting_stage_is_the_pace_of_its_kind_times_its_size() -> None:
    stages = [finished("kNN", seconds=6, size=300), finished("kNN", seconds=4, size=200), Stage("kNN", size=50)]
    assert time_left(stages, 0.0) == Left(pytest.approx(10 / 500 * 50), whole=True)


def test_estimate__says_when_a_stage_is_missing_from_it_and_leaves_brief_ones_out() -> None:
    stages = [finished("kNN", seconds=6, size=1), Stage("kNN", size=2), Stage("linear"), Stage("report", brief=True)]
    assert time_left(stages, 0.0) == Left(12.0, whole=False)
    del stages[2]
    assert time_left(stages, 0.0) == Left(12.0, whole=True)


def test_estimate__an_unknown_size_is_that_of_the_last_stage_of_the_same_name() -> None:
    train, test = (finished(f"extract {split}", seconds=8, size=80, kind="extract vit") for split in ("train", "test"))
    test.size, test.ended = 20, test.started + 2
    waiting = [Stage(one.name, kind="extract vit") for one in (train, test)]
    assert time_left([train, test, *waiting], 0.0) == Left(10.0, whole=True)
    assert time_left([train, Stage("extract test", kind="extract vit")], 0.0) is None


def test_estimate__a_running_stage_goes_on_at_its_own_rate_from_its_first_report() -> None:
    clock = Clock()
    job = Job(Silent(), clock)
    stage = job.start("extract train", title="extract a, train", unit="images", size=1000)
    clock.now += 50  # Loading and compiling are no part of the rate.
    job.report(stage, 400, 1000)
    assert job.left() is None
    clock.now += 10
    job.report(stage, 600, 1000)
    assert stage.rate == 20.0
    assert job.left() == Left(20.0, whole=True)
    clock.now += 5
    assert job.left() == Left(15.0, whole=True)
    clock.now += 100
    assert job.left() == Left(0.0, whole=True)


def test_estimate__before_its_own_rate_is_known_a_running_stage_takes_what_its_kind_took() -> None:
    clock = Clock()
    job = Job(Silent(), clock, [finished("kNN", seconds=30, size=100)])
    job.start("kNN", title="kNN, a", unit="", size=200)
    clock.now += 20
    assert job.left() == Left(40.0, whole=True)


def test_job__takes_planned_stages_by_name_passes_over_others_and_inserts_what_nobody_planned() -> None:
    job = Job(Silent())
    job.plan([Stage("kNN", "a"), Stage("linear", "a"), Stage("kNN", "b"), Stage("linear", "b")])
    for name in ("kNN", "costs", "kNN", "linear"):
        job.end(job.start(name, title=name, unit="", size=1), "done")
    assert [(stage.group, stage.name, stage.state) for stage in job.stages] == [
        ("a", "kNN", "done"),
        ("a", "costs", "done"),
        ("a", "linear", "skipped"),
        ("b", "kNN", "done"),
        ("b", "linear", "done"),
    ]


def test_plan__of_an_evaluation_has_every_stage_of_every_encoder_and_the_report() -> None:
    settings = load(EvalSettings, flags={"model": "runs/a", "dataset": "digits", "seeds": "0,1"})
    stages = evaluation_stages(
        {spec: settings.model_copy(update={"model": spec}) for spec in ("runs/a", "random:runs/a")},
        ["kNN"],
        {},
        closing=["galleries", REPORT],
    )
    names = [(stage.group, stage.name) for stage in stages]
    once = ["extract train", "extract test"]
    assert names == [
        *(("runs/a", name) for name in [*once, "costs", "kNN"]),
        # Untrained weights differ from seed to seed; what they cost does not.
        *(("random:runs/a", name) for name in [*once, "costs", *once, "kNN"]),
        ("", "galleries"),
        ("", "report"),
    ]
    assert [stage.name for stage in extraction_stages(settings, views=1)] == [*once, "extract view 1"]


def test_plan__an_encoder_and_its_untrained_twin_are_of_one_kind_and_pixels_are_not() -> None:
    kinds = []
    for model in ("runs/a", "random:runs/a", "timm:vit?checkpoint=x.pth?taps=1", "random:vit?taps=1", "pixels:8"):
        settings = load(EvalSettings, flags={"model": model, "dataset": "digits"})
        kinds.append(extraction_stages(settings, views=0)[0].kind)
    assert kinds[0] == kinds[1]
    assert kinds[2] == kinds[3]
    assert len(set(kinds)) == 3

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hjepa_eval.evaluation.job import Job, Left, Stage
from hjepa_eval.evaluation.live.view import JobView, estimate, shortened, spent

STEPS = ("extract train", "extract test", "kNN", "linear", "few-shot", "gallery")
MODEL = "random:vit_tiny_patch4_32?taps=4,8,12"


class Silent:
    def began(self) -> None:
        pass

    def reported(self, stage: Stage) -> None:
        pass

    def ended(self, stage: Stage) -> None:
        pass


class Evaluation:
    """A job of several encoders whose stages take one second for every ten of their size."""

    def __init__(self, groups: list[str]) -> None:
        self.now = 0.0
        self.job = Job(Silent(), lambda: self.now)
        self.job.plan([*(Stage(step, group) for group in groups for step in STEPS), Stage("report", brief=True)])

    def run(self, count: int, **how: Any) -> None:
        for _ in range(count):
            self.begin()
            self.end(**how)

    def begin(self) -> None:
        name = next(stage.name for stage in self.job.stages if stage.state == "waiting")
        self.stage = self.job.start(name, title=name, unit="images" if "extract" in name else "", size=20)

    def end(self, state: Any = "done", outcome: str = "") -> None:
        self.now += 2.0
        self.stage.outcome = outcome
        self.job.end(self.stage, state)


def rendered(job: Job, *, width: int = 80, height: int = 24, closed: bool = False, **console: Any) -> list[str]:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, **console)
    out.print(JobView(job, closed))
    return out.file.getvalue().splitlines()


def test_view__shows_done_running_and_waiting_stages_and_what_is_left() -> None:
    evaluation = Evaluation([MODEL, "pixels:8"])
    evaluation.run(1, outcome="from the cache, no forward pass")
    evaluation.begin()
    evaluation.job.report(evaluation.stage, 0, 400)
    evaluation.now += 10
    evaluation.job.report(evaluation.stage, 100, 400)
    lines = rendered(evaluation.job)
    assert lines[0] == MODEL
    assert lines[1] == "  ✓ extract train  from the cache, no forward pass"
    assert lines[2].split("━")[-1].strip("─") == "  25%  10 images/s  0:30 left"
    assert lines[3:7] == [f"  · {name:<13}  " for name in STEPS[2:]]
    assert lines[7].split() == ["·", "pixels:8", "6", "stages"]
    assert lines[8].split() == ["·", "report"]
    assert lines[9] == "1 of 13 stages   0:12 so far   at least 0:30 left"


def test_view__a_finished_encoder_is_one_line_with_its_seconds() -> None:
    evaluation = Evaluation(["pixels:8", "pixels:4"])
    evaluation.run(6)
    evaluation.begin()
    lines = rendered(evaluation.job, width=100)
    took = "extract 4.0 s, kNN 2.0 s, linear 2.0 s, few-shot 2.0 s, gallery 2.0 s"
    assert lines[0].split() == ["✓", "pixels:8", "12", "s", *took.split()]
    assert lines[1] == "pixels:4"
    # Six stages of two seconds each are learned from; the report is too short to count.
    assert lines[-1] == "6 of 13 stages   0:12 so far   about 0:12 left"


def test_view__what_is_unusual_stays_where_seconds_do_not_fit() -> None:
    evaluation = Evaluation([MODEL])
    evaluation.run(2, outcome="from the cache, no forward pass")
    evaluation.run(2)
    evaluation.run(1, state="failed")
    evaluation.run(2)
    (line, report, end) = rendered(evaluation.job, closed=True)
    assert line.startswith("✓ ")
    assert line.endswith("extract from the cache, no few-shot")
    assert report.split() == ["✓", "report", "2.0", "s"]
    assert end == "7 stages in 14 s"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [8, 24])
def test_view__never_outgrows_the_terminal_and_keeps_the_running_stage(width: int, height: int) -> None:
    evaluation = Evaluation([f"random:vit_tiny_patch4_32?taps={number}" for number in range(40)])
    evaluation.run(6 * 20 + 3)
    evaluation.begin()
    evaluation.job.report(evaluation.stage, 1, 3)
    lines = rendered(evaluation.job, width=width, height=height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert any("33%" in line or "linear" in line for line in lines)
    assert "of 241 stages"[: width - 4] in lines[-1]
    assert "more above" in lines[0]


def test_view__between_two_stages_the_next_one_turns() -> None:
    evaluation = Evaluation(["pixels:8", "pixels:4"])
    evaluation.run(6)
    before = rendered(evaluation.job)
    evaluation.now += 0.2
    after = rendered(evaluation.job)
    assert before[1] == "pixels:4"
    assert before[2].endswith(" extract train  ")
    assert before[2] != after[2]
    assert before[3] == after[3]


def test_view__an_interrupted_job_shows_where_it_was_and_not_what_it_never_came_to() -> None:
    evaluation = Evaluation(["pixels:8", "pixels:4"])
    evaluation.run(2)
    evaluation.begin()
    evaluation.job.report(evaluation.stage, 1, 4)
    evaluation.end("interrupted")
    lines = rendered(evaluation.job, closed=True)
    assert [line.split()[1:2] for line in lines[1:3]] == [["extract"], ["extract"]]
    assert lines[3] == "  ✗ kNN            interrupted at 25%"
    assert lines[4:] == ["2 of 13 stages in 6.0 s"]


def test_view__of_one_stage_is_one_line() -> None:
    job = Job(Silent(), lambda: 0.0)
    stage = job.start("finetune vit", title="finetune vit", unit="steps", size=1)
    job.report(stage, 5, 10, "epoch 1: 80.0")
    (line,) = rendered(job)
    assert "finetune vit" in line
    assert line.endswith(" 50%  epoch 1: 80.0")


def test_view__does_without_unicode_where_the_terminal_has_none() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    evaluation = Evaluation(["pixels:8"])
    evaluation.run(1)
    evaluation.begin()
    evaluation.job.report(evaluation.stage, 1, 4)
    out = Console(file=Ascii(), width=80, height=24, force_terminal=True, color_system=None)
    out.print(JobView(evaluation.job))
    assert out.file.getvalue().isascii()
    assert "#######---" in out.file.getvalue()


def test_words__are_short() -> None:
    assert [spent(seconds) for seconds in (0.04, 9.94, 9.96, 59.4, 59.6, 3725)] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "59 s",
        "1:00",
        "1:02:05",
    ]
    assert shortened("pixels:8", 8) == "pixels:8"
    assert shortened("random:vit_tiny_patch4_32", 11) == "rando…h4_32"
    assert [estimate(Left(*left)) for left in ((62.0, True), (62.0, False), (0.2, False))] == [
        "about 1:02 left",
        "at least 1:02 left",
        "",
    ]

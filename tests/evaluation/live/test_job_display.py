from __future__ import annotations

import io
import sys

import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.job import Stage, Talk
from hjepa_eval.evaluation.live.display import Stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; in the test's body, for pytest sets stderr anew after fixtures."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_lines__one_per_finished_stage_and_one_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = [0.0]
    talk = Stderr(quiet=False)
    with talk.job() as job:
        job.clock = lambda: seconds[0]
        talk.plan([Stage("extract train", "a"), Stage("kNN", "a")])
        with talk.progress("extract a, digits train", "images", stage="extract train", size=400) as report:
            for second, done in ((0, 0), (4, 100), (11, 200), (15, 250), (22, 300), (40, 400)):
                seconds[0] = second
                report(done, 400, "remark" if done == 300 else "")
        with talk.progress("kNN, a", "", stage="kNN") as report:
            report(0, 3)
            seconds[0] += 0.5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "[1/2] extract a, digits train: 200/400, 18 images/s, 0:11 left, in all at least 0:11 left",
        "[1/2] extract a, digits train: 300/400, 14 images/s, 0:07 left, remark, in all at least 0:07 left",
        "[1/2] extract a, digits train: 400 images, 40 s, 10 images/s",
        "[2/2] kNN, a: 0.5 s",
    ]


def test_lines__of_a_single_stage_have_no_number_and_say_what_was_spared(capsys: pytest.CaptureFixture[str]) -> None:
    with Stderr(quiet=False).progress("extract a, digits train", "images") as report:
        report.spared("from the cache, no forward pass")
    assert capsys.readouterr().err == "extract a, digits train: from the cache, no forward pass\n"


def test_lines__names_from_data_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with Stderr(quiet=False).progress("extract a, folder:\x1b[2J\x9bb\bs\u202e train", "images") as report:
        report(4, 4)
    assert capsys.readouterr().err.startswith(r"extract a, folder:\x1b[2J\x9bb\x08s\u202e train: 4 images")


@pytest.mark.parametrize("how", [{"quiet": True}, {"quiet": False, "leader": False}])
def test_quiet__says_nothing(how: dict, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Stderr(**how)
    with talk.job(), talk.progress("kNN, a", "") as report:
        report(1, 1)
        talk.note("a note")
    assert capsys.readouterr() == ("", "")


def test_live__shows_stages_keeps_notes_above_and_ends_with_a_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = use_terminal(monkeypatch)
    talk = Stderr(quiet=False)
    with talk.job():
        talk.plan([Stage("extract train", "pixels:8"), Stage("kNN", "pixels:8"), Stage("report", brief=True)])
        with talk.progress("extract pixels:8, digits train", "images", stage="extract train", size=4) as report:
            report(4, 4)
            talk.note("protocol dino-knn: a deviation")
            print("the result goes to stdout")
        with talk.progress("kNN, pixels:8", "", stage="kNN"):
            pass
        with talk.progress("report", "", stage="report"):
            pass
    text = terminal.getvalue()
    assert text.count("protocol dino-knn: a deviation") == 1
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "3 stages in" in text
    # Nothing of a result may be led to stderr.
    assert capsys.readouterr().out == "the result goes to stdout\n"
    assert "the result" not in text


def test_live__nothing_is_drawn_before_there_is_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with pytest.raises(ProbeError), Stderr(quiet=False).job():
        raise ProbeError("a typo")
    assert terminal.getvalue() == ""


def test_live__an_interrupted_stage_is_shown_as_such_and_the_cursor_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)

    def interrupted(talk: Talk) -> None:
        with talk.job():
            talk.plan([Stage("kNN", "pixels:8"), Stage("linear", "pixels:8")])
            with talk.progress("kNN, pixels:8", "", stage="kNN") as report:
                report(1, 2)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(Stderr(quiet=False))
    text = terminal.getvalue()
    assert "interrupted at 50%" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_live__a_failed_stage_does_not_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    talk = Stderr(quiet=False)
    with talk.job():
        talk.plan([Stage("few-shot", "pixels:8"), Stage("report")])
        with pytest.raises(ProbeError), talk.progress("fewshot, pixels:8", "", stage="few-shot"):
            raise ProbeError("too few images")
        with talk.progress("report", "", stage="report"):
            pass
    assert "no few-shot" in terminal.getvalue()


def test_dumb_terminal__gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with Stderr(quiet=False).progress("kNN, a", ""):
        pass
    assert terminal.getvalue().startswith("kNN, a: 0.")
    assert "\x1b" not in terminal.getvalue()

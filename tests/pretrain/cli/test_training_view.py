from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from hjepa_pretrain.cli.progress import plain_line, show_training
from hjepa_pretrain.cli.view import History, TrainingView, number, sparkline
from hjepa_pretrain.diagnostics.progress import Progress
from rich.console import Console

from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.live.view import clock

LOSSES = {
    "loss": 0.91,
    "level_0": 0.5,
    "level_1": 0.41,
    "r2_0": 0.62,
    "r2_1": 0.4,
    "sigreg": 0.012,
    "gradient_norm": 2.0,
}
DIAGNOSIS = {"images": 500, "knn_images": 40, "knn": [0.301, None], "rankme": [88.04, 41.5], "std": [0.31, 0.0000123]}
BEST = {"knn": 0.35, "step": 500, "level": 0, "per_level": [0.35, 0.2]}


def state(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "step": 1234,
        "total_steps": 5000,
        "fraction": 0.2468,
        "losses": LOSSES,
        "diagnosis": DIAGNOSIS,
        "best": BEST,
        "images_per_second": 310.4,
        "eta_seconds": 3725.0,
        "elapsed": 61.0,
        "epoch": 3.21,
    }
    return Progress(**{**values, **changes})


def rendered(view: TrainingView, width: int, **console: Any) -> list[str]:
    out = Console(file=io.StringIO(), width=width, **console)
    out.print(view)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_view__has_every_number_in_lines_of_one_width(width: int) -> None:
    view = TrainingView("runs/a", "digits, 1,437 images", "cpu")
    view.update(state())
    lines = rendered(view, width)
    assert {len(line) for line in lines} == {min(width, 120)}
    text = "\n".join(lines)
    for expected in ("runs/a", "digits, 1,437 images", "cpu", "24.7%", "1,234/5,000", "3.21", "1:01", "1:02:05"):
        assert expected in text
    rows = [line.strip("│ ").split() for line in lines]
    trend = ["▁"] if width > 60 else []
    assert ["0", "0.5000", *trend, "0.620", "88.0", "0.3100", "30.1", "35.0"] in rows
    assert ["1", "0.4100", *trend, "0.400", "41.5", "1e-05", "-", "20.0"] in rows
    assert "sigreg 0.012" in text
    assert "310 img/s" in text
    assert "best kNN 35.0 [22.1-50.5] of 40 images" in text


def test_view__keeps_its_size_while_numbers_change() -> None:
    view = TrainingView("runs/a", "digits", "cpu")
    sizes = set()
    for step in range(1, 400):
        losses = {**LOSSES, "level_0": 10.0 ** (step % 9 - 4), "loss": float(step)}
        view.update(state(step=step * 997, losses=losses, fraction=step / 400, eta_seconds=None))
        view.note = "a long remark " * (step % 20)
        if step % 50 == 1:
            lines = rendered(view, 80)
            sizes.add((len(lines), len(lines[0])))
    assert len(sizes) == 1


def test_view__shows_a_run_of_which_nothing_is_known_yet() -> None:
    assert "runs/a" in "\n".join(rendered(TrainingView("runs/a", "digits", "cpu"), 80))
    bare = state(losses={}, diagnosis={}, best=None, eta_seconds=None, total_steps=None)
    view = TrainingView("", "", "")
    view.update(bare)
    assert "1,234 " in "\n".join(rendered(view, 80))


def test_trend__grows_once_per_log_line_and_not_once_per_step() -> None:
    view = TrainingView("", "", "")
    for losses in ({}, LOSSES, LOSSES, dict(LOSSES), {**LOSSES, "level_0": 0.4}, {**LOSSES, "level_0": float("nan")}):
        view.update(state(losses=losses))
    assert view.histories["level_0"].values == [0.5, 0.4]


def test_history__stays_small_and_covers_everything() -> None:
    history = History(size=8)
    for value in range(64):
        history.add(float(value))
    assert len(history.values) <= 8
    assert history.values[0] < 8
    assert history.values == sorted(history.values)
    assert sum(history.values) / len(history.values) == pytest.approx(31.5)


def test_sparkline__runs_from_the_lowest_to_the_highest_block() -> None:
    assert sparkline([0.0, 7.0, 3.0], 8) == "▁█▄"
    assert sparkline([2.0, 0.0, 8.0, 6.0], 2) == "▁█"
    assert sparkline([5.0, 5.0], 8) == "▁▁"
    assert sparkline([], 8) == ""


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.000"), (1e-5, "1e-05"), (12.3456, "12.346")])
def test_number__fits_a_narrow_column(value: float | None, text: str) -> None:
    assert number(value, 3) == text


def test_clock__shows_hours_only_where_there_are_some() -> None:
    assert [clock(seconds) for seconds in (0.4, 61, 3725, -1)] == ["0:00", "1:01", "1:02:05", "0:00"]


def test_plain_line__says_where_a_run_stands() -> None:
    assert plain_line(state()) == (
        "pretrain: 24.7%, step 1,234/5,000, epoch 3.21, loss 0.9100 (0.500/0.410), kNN 30.1/-, "
        "best 35.0 [22.1-50.5] of 40 (level 0), 310 images/s, 1:02:05 left"
    )


def test_progress__without_a_terminal_is_a_line_at_first_at_last_and_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("hjepa_pretrain.cli.progress.time.monotonic", lambda: now[0])
    with show_training(Stderr(quiet=False), run="runs/a", dataset="digits", device="cpu") as shown:
        shown.note("compiling")
        for step, losses in ((0, {}), (5, LOSSES), (6, LOSSES), (11, LOSSES), (16, LOSSES)):
            now[0] = float(step)
            shown.update(state(step=step, losses=losses))
        shown.update(state(step=17, fraction=1.0))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "compiling"
    assert [line.split(", ")[1] for line in said[1:]] == ["step 5/5,000", "step 16/5,000", "step 17/5,000"]


def test_progress__says_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with show_training(Stderr(quiet=True), run="runs/a", dataset="digits", device="cpu") as shown:
        shown.note("compiling")
        shown.update(state(fraction=1.0))
    assert capsys.readouterr() == ("", "")


def test_progress__on_a_terminal_is_live_and_notes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with show_training(Stderr(quiet=False), run="runs/a", dataset="digits", device="cpu") as shown:
        shown.update(state())
        shown.note("checkpoint step-5 is damaged")
    text = terminal.getvalue()
    assert "1,234/5,000" in text
    assert text.count("checkpoint step-5 is damaged") >= 2  # above the panel, and in it

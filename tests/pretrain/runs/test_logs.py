from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hjepa_pretrain.config.settings import DiagnosticsSettings
from hjepa_pretrain.runs.logs import check_logs, flatten, open_logs
from needed_tools import need_module

from hjepa_eval.errors import CheckpointError, ConfigError


def line(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "losses": {"loss": loss}, "knn": [0.25, None], "best": None}


def steps(folder: Path) -> list[int]:
    return [json.loads(text)["step"] for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_flatten__keeps_numbers_by_path_and_nothing_else() -> None:
    nested = {"step": 3, "losses": {"loss": 0.5, "nan": float("nan")}, "knn": [0.25, None], "on": True, "name": "x"}
    nested["map"] = [[0.5, 0.25], [0.0, 1.0]]
    assert flatten(nested) == {"step": 3, "losses/loss": 0.5, "knn/0": 0.25}


def test_jsonl__has_every_line_at_once_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    logs = open_logs(tmp_path, DiagnosticsSettings())
    logs.write(line(10, float("nan")))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 10, "losses": {"loss": None}, "knn": [0.25, None], "best": None}
    logs.write(line(20, 0.5))
    assert steps(tmp_path) == [10, 20]
    logs.close()
    logs.close()


def test_jsonl__of_a_resumed_run_ends_at_its_checkpoint_and_goes_on(tmp_path: Path) -> None:
    logs = open_logs(tmp_path, DiagnosticsSettings())
    for step in (10, 20, 30):
        logs.write(line(step, 1.0))
    logs.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    logs = open_logs(tmp_path, DiagnosticsSettings(), step=20)
    logs.write(line(30, 2.0))
    logs.close()
    assert steps(tmp_path) == [10, 20, 30]


def test_jsonl__of_a_run_killed_after_its_last_line_has_that_line_once(tmp_path: Path) -> None:
    logs = open_logs(tmp_path, DiagnosticsSettings())
    for step in (10, 20):
        logs.write(line(step, 1.0))
    size = (tmp_path / "metrics.jsonl").stat().st_size  # The checkpoint of step 20 is written now.
    logs.write(line(20, 2.0))
    logs.close()
    logs = open_logs(tmp_path, DiagnosticsSettings(), step=20, size=size)
    logs.write(line(20, 2.0))
    logs.close()
    assert steps(tmp_path) == [10, 20, 20]
    open_logs(tmp_path, DiagnosticsSettings(), step=10, size=10**6).close()
    assert steps(tmp_path) == [10], "of a file that lost bytes, lines up to the step stay"


def test_logs__say_when_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: Is a directory; make room"):
        open_logs(tmp_path, DiagnosticsSettings())


def test_logs__name_the_extra_that_is_missing_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_logs(DiagnosticsSettings())
    with pytest.raises(ConfigError, match=r"pip install 'hjepa\[tensorboard\]'"):
        check_logs(DiagnosticsSettings(tensorboard=True))
    with pytest.raises(ConfigError, match=r"pip install 'hjepa\[wandb\]'"):
        check_logs(DiagnosticsSettings(wandb="project"))


@pytest.mark.rows("F")
def test_tensorboard__shows_the_same_numbers_and_forgets_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    accumulator = need_module("tensorboard.backend.event_processing.event_accumulator")
    settings = DiagnosticsSettings(tensorboard=True)
    logs = open_logs(tmp_path, settings)
    for step in (10, 20, 30):
        logs.write(line(step, step / 8))
    logs.close()
    logs = open_logs(tmp_path, settings, step=20)
    logs.write(line(40, 9.0))
    logs.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["knn/0", "losses/loss"]
    shown = [(event.step, event.value) for event in events.Scalars("losses/loss")]
    assert shown == [(10, 1.25), (20, 2.5), (40, 9.0)]
    logs = open_logs(tmp_path, settings)  # A run that was left before its first checkpoint begins again.
    logs.write(line(10, 4.0))
    logs.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/loss")] == [(10, 4.0)]


class FakeWandb(types.ModuleType):
    """Remembers what it was told, as a run of Weights & Biases would."""

    class Error(Exception):
        pass

    class Settings:
        def __init__(self, **given: Any) -> None:
            self.given = given

    def __init__(self, refusal: str = "") -> None:
        super().__init__("wandb")
        self.refusal = refusal
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.metrics: list[tuple[str, str | None]] = []
        self.finished = 0

    def init(self, **given: Any) -> FakeWandb:
        if self.refusal:
            raise self.Error(self.refusal)
        self.inits.append(given)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.rows("F")
def test_wandb__gets_the_same_numbers_over_our_step_in_one_run_for_all_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 10):
        logs = open_logs(tmp_path, DiagnosticsSettings(wandb="levels"), step=step, config={"seed": 1})
        logs.write(line(step + 10, 0.5))
        logs.close()
    assert fake.logged == [
        {"step": 10, "losses/loss": 0.5, "knn/0": 0.25},
        {"step": 20, "losses/loss": 0.5, "knn/0": 0.25},
    ]
    first, second = fake.inits
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text()
    assert (first["project"], first["name"], first["config"]) == ("levels", tmp_path.name, {"seed": 1})
    assert first["settings"].given == {"console": "off"}
    assert fake.metrics == [("step", None), ("*", "step")] * 2
    assert fake.finished == 2


def test_wandb__that_refuses_is_one_line_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("no API key\nconfigured"))
    with pytest.raises(ConfigError, match=r"refuses: no API key configured; .*WANDB_MODE=offline"):
        open_logs(tmp_path, DiagnosticsSettings(wandb="levels"))

"""Costs in records: counted and timed once, remembered beside the encoder's identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hjepa_eval.encoders import handle as handle_module
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.costs import encoder_costs
from hjepa_eval.encoders.handle import EncoderHandle, open_encoder
from hjepa_eval.evaluation.models import costs as level_costs_module
from hjepa_eval.evaluation.models.costs import LevelCosts, level_costs
from hjepa_eval.extraction import timing as timing_module
from hjepa_eval.machine import devices

TINY = "random:vit_tiny_patch2_8?taps=1,2"
KNN = ("knn", "--model", TINY, "--dataset", "digits", "--max-samples", 60, "--precision", "fp32", "--json")
USER_FILE = """
import torch
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level

class Mine(Encoder):
    name, settings, transform = "mine", {}, Transform(8, 8)
    levels = (Level(0, "corner", 8, (1, 1)), Level(1, "other", 8, (1, 1)))

    def forward(self, images):
        corner = images[:, :1, :1, :].flatten(1)
        return [corner.unsqueeze(1), OTHER.unsqueeze(1)]

def build():
    return Mine()
"""


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any times for steady ones: the tests' machine is never quiet."""
    monkeypatch.setattr(timing_module, "_UNSTEADY", 1e9)


NUMPY = "torch.from_numpy(corner.numpy() * 2)"
DISTANCES = "torch.cdist(corner, images[0, 0], p=1.0)"


def measured(folder: Path, **changes: Any) -> LevelCosts | None:
    where = {"device": "cpu", "precision": "fp32", "cache_dir": folder, "say": print, **changes}
    return level_costs(open_encoder(TINY, cache_dir=folder), **where)


def test_records__say_what_each_level_costs_and_the_second_call_builds_no_encoder(
    hjepa, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = hjepa(*KNN, "--fuse", "concat")
    assert done.code == 0, done.err
    first = [level["cost"] for level in json.loads(done.out)[0]["levels"]]
    counted = encoder_costs(load_encoder(TINY))
    assert [cost["gflop"] for cost in first] == [*(each.gflop for each in counted.levels), counted.together.gflop]
    assert [cost["parameters"] for cost in first[:2]] == [each.parameters for each in counted.levels]
    assert all(cost["milliseconds"] > 0 and cost["spread"] >= 0 and cost["batch"] == 8 for cost in first)
    assert {cost["precision"] for cost in first} == {"fp32"}
    assert all(cost["device"].endswith("threads") for cost in first)

    def refuse(spec: str, **settings: object) -> None:
        raise AssertionError(f"{spec} was built")

    monkeypatch.setattr(handle_module, "load_encoder", refuse)
    again = hjepa(*KNN, "--fuse", "concat")
    assert again.code == 0, again.err
    assert "from the cache, no forward pass" in again.err
    assert [level["cost"] for level in json.loads(again.out)[0]["levels"]] == first


def test_level_costs__some_levels_joined_have_none(tmp_path: Path) -> None:
    costs = measured(tmp_path)
    assert costs is not None
    assert costs.of((1,)) == costs.levels[1]
    assert costs.of((0, 1)) == costs.together
    assert LevelCosts({**costs.levels, 2: costs.together}, costs.together, {}).of((0, 1)) is None


@pytest.mark.parametrize("change", ["precision", "threads", "hardware", "method"])
def test_level_costs__are_measured_again_where_they_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def files() -> set[Path]:
        return set((tmp_path / "encoders").glob("*.json"))

    first = measured(tmp_path)
    before = files()
    assert measured(tmp_path) == first
    assert files() == before
    if change == "threads":
        monkeypatch.setenv("OMP_NUM_THREADS", "17")
    elif change == "hardware":
        monkeypatch.setattr(level_costs_module, "hardware_name", lambda device: "another processor")
    elif change == "method":
        monkeypatch.setattr(level_costs_module, "_METHOD", 0)
    measured(tmp_path, **({"precision": "bf16"} if change == "precision" else {}))
    # One by the encoder's identity and one by its architecture.
    assert len(files() - before) == 2


def test_level_costs__two_checkpoints_of_one_architecture_are_timed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(timing_module, "encoder_timing", refuse)
    where = {"device": "cpu", "precision": "fp32", "cache_dir": tmp_path, "say": print}
    assert level_costs(open_encoder(TINY, seed=1, cache_dir=tmp_path), **where) == first
    with pytest.raises(AssertionError, match="timed again"):
        level_costs(open_encoder(TINY.replace("1,2", "1,3"), cache_dir=tmp_path), **where)


def test_level_costs__a_busy_machine_gives_no_milliseconds_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(10**6))
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(timing_module, "_seconds", lambda call, device: 0.01 * (1 + next(turns) % 5))
        patch.setattr(timing_module, "_UNSTEADY", 0.25)
        costs = measured(tmp_path, say=said.append)
    assert costs is not None
    assert {cost.milliseconds for cost in costs.levels.values()} == {None}
    assert len(said) == 1
    assert "busy" in said[0]
    again = measured(tmp_path, say=said.append)
    assert again is not None
    assert all(cost.milliseconds > 0 for cost in again.levels.values())


def test_level_costs__a_timing_that_fails_is_said_and_leaves_the_rest_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nTried to allocate 2 GiB")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(timing_module, "encoder_timing", fail)
        costs = measured(tmp_path, say=said.append)
    assert said == [f"{TINY} has no ms per image, since timing failed: out of memory Tried to allocate 2 GiB"]
    assert costs is not None
    assert [(cost.gflop > 0, cost.milliseconds, cost.batch) for cost in costs.levels.values()] == [
        (True, None, None)
    ] * 2
    again = measured(tmp_path, say=said.append)
    assert len(said) == 1
    assert again is not None
    assert all(cost.milliseconds > 0 for cost in again.levels.values())


@pytest.mark.parametrize("answer", [{}, {"costs": {}}, {"costs": {"levels": {"0": {"gflop": "x"}}}}, {"costs": 3}])
def test_level_costs__damaged_memory_costs_a_measurement_nothing_else(tmp_path: Path, answer: dict[str, Any]) -> None:
    first = measured(tmp_path)
    for file in (tmp_path / "encoders").glob("*.json"):
        known = json.loads(file.read_text())
        if "costs" in known["answer"]:
            file.write_text(json.dumps({**known, "answer": answer}))
    again = measured(tmp_path)
    assert first is not None
    assert again is not None
    assert [cost.gflop for cost in again.levels.values()] == [cost.gflop for cost in first.levels.values()]


def test_level_costs__of_the_same_encoder_are_found_without_building_it(tmp_path: Path) -> None:
    encoder = load_encoder(TINY)
    first = measured(tmp_path)

    def refuse() -> Any:
        raise AssertionError("built")

    handle = EncoderHandle(encoder.name, encoder.identity(), refuse)
    found = level_costs(handle, device="cpu", precision="fp32", cache_dir=tmp_path, say=print)
    assert found == first


def test_records__a_level_made_outside_torch_has_no_cost(hjepa) -> None:
    Path("mine.py").write_text(USER_FILE.replace("OTHER", NUMPY))
    common = ("knn", "--model", "mine.py:build", "--dataset", "digits", "--max-samples", 60, "--fuse", "concat")
    for _ in range(2):  # measured, then remembered
        done = hjepa(*common, "--json")
        assert done.code == 0, done.err
        corner, other, joined = (level["cost"] for level in json.loads(done.out)[0]["levels"])
        assert (corner["gflop"], corner["milliseconds"], other, joined) == (0.0, None, None, None)


def test_records__what_gflop_leave_out_is_said(hjepa) -> None:
    Path("mine.py").write_text(USER_FILE.replace("OTHER", DISTANCES))
    done = hjepa(*("knn", "--model", "mine.py:build", "--dataset", "digits", "--max-samples", 60, "--json"))
    assert done.code == 0, done.err
    corner, distances = json.loads(done.out)[0]["levels"]
    assert not any("GFLOP" in note for note in corner["notes"])
    assert "GFLOP without aten._cdist_forward, for which there is no formula" in distances["notes"]


def test_hardware_name__is_what_the_system_calls_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    assert devices.hardware_name("cpu"), "a system without such a file has another name for it"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Quick: 9\nmodel name\t: Quick: 9\n")
    assert devices.hardware_name("cpu") == "Quick: 9"

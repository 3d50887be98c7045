"""A run that is killed, wherever it is, goes on to what the undisturbed run comes to, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from folders import SUPPORT
from forked import Forked, finish
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.loop import Progress, pretrain
from hjepa_pretrain.runs.checkpoint import list_checkpoints
from safetensors.torch import load_file
from small_runs import DIGITS, trace

from hjepa_eval.datasets import load_dataset


def run(folder: Path, *, resume: bool = False, stop_at: int | None = None) -> None:
    def watch(state: Progress) -> None:
        if state.step == stop_at:
            raise KeyboardInterrupt

    digits = load_dataset("digits", "train")
    settings = build_settings(DIGITS, "test")
    pretrain(settings, digits, run_dir=folder, resume=resume, progress=watch, say=lambda _: None)


def start(folder: Path, kind: str, step: int, number: int) -> Forked:
    """Start a run that ends before its time, computing as this process does."""
    return Forked([SUPPORT / "killed_runs.py", folder, json.dumps(DIGITS), torch.get_num_threads(), kind, step, number])


def send(process: Forked, number: signal.Signals, *, after: int) -> None:
    """Send a signal to a run when it is asleep `after` a step."""
    for line in process.stdout:
        if line.strip() == str(after):
            os.kill(process.pid, number)
            return
    raise AssertionError(process.communicate()[1])


def killed(folder: Path, kind: str, step: int, number: int) -> str:
    """Let a run kill itself, and return the last words it said."""
    process = start(folder, kind, step, number)
    said, codes = finish(process)
    assert codes == [-signal.SIGKILL], said
    return process.communicate()[0].splitlines()[-1]


def assert_same_run(one: Path, other: Path) -> None:
    assert trace(one) == trace(other)
    assert [line["step"] for line in trace(one)] == list(range(2, 17, 2))
    for path in ("encoder.safetensors", "checkpoints/step-00000016/trainer.safetensors"):
        mine, its = load_file(one / path), load_file(other / path)
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, its[name]), name
    folders = [sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (one, other)]
    assert folders[0] == folders[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


@pytest.mark.parametrize("step", [2, 4, 15])  # before 4 there is no checkpoint yet: it begins again
def test_resume__after_kill_9_between_steps_is_bit_identical(whole: Path, tmp_path: Path, step: int) -> None:
    folder = tmp_path / "run"
    with start(folder, "asleep", step, 60) as process:
        send(process, signal.SIGKILL, after=step)
    assert process.returncode == -signal.SIGKILL
    run(folder, resume=True)
    assert_same_run(whole, folder)


def test_sigterm__writes_a_checkpoint_and_says_how_to_go_on(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start(folder, "asleep", 6, 2) as process:
        send(process, signal.SIGTERM, after=6)
        assert "KeyboardInterrupt" in process.communicate()[1]
    assert list_checkpoints(folder)[-1].name == "step-00000006"
    run(folder, resume=True)
    assert_same_run(whole, folder)


@pytest.mark.parametrize(("step", "seed"), [(3, 0), (6, 1), (13, 2)])
def test_resume__after_kill_9_at_any_operation_of_a_step_is_bit_identical(
    whole: Path, tmp_path: Path, step: int, seed: int
) -> None:
    folder = tmp_path / "run"
    assert killed(folder, "computing", step, seed).startswith("killed at operation")
    run(folder, resume=True)
    assert_same_run(whole, folder)


@pytest.mark.parametrize("call", range(5))
def test_resume__after_kill_9_at_any_moment_of_writing_a_checkpoint_is_bit_identical(
    whole: Path, tmp_path: Path, call: int
) -> None:
    folder = tmp_path / "run"
    last = killed(folder, "writing", 8, call)
    assert last.startswith("killed at rename" if call == 4 else "killed at fsync")
    # The last measurement is logged, and its checkpoint is not there: the one before it counts.
    assert trace(folder)[-1]["step"] == 8
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000004"]
    assert any(path.name.startswith(".step-00000008") for path in (folder / "checkpoints").iterdir())
    run(folder, resume=True)
    assert_same_run(whole, folder)


@pytest.mark.parametrize("call", [4, 5])
def test_resume__after_kill_9_while_a_damaged_checkpoint_is_replaced_is_bit_identical(
    whole: Path, tmp_path: Path, call: int
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=12)
    (list_checkpoints(folder)[-1] / "encoder.safetensors").write_bytes(b"damaged")
    assert killed(folder, "writing", 12, call).startswith("killed at rename")
    run(folder, resume=True)
    assert_same_run(whole, folder)

"""What a run's folder is believed of: its weights and summary have sums, and one process at a time writes there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from hjepa_pretrain.runs.files import read_summary

from hjepa_eval.cli import main
from hjepa_eval.encoders.kinds.run import load_run
from hjepa_eval.errors import CheckpointError, TrainingError
from hjepa_eval.features.claims import alone_in_run


@pytest.fixture
def finished(digits_run: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "finished"))


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-3, -4001, -20003])
def test_load_run__a_flipped_bit_of_the_weights_is_refused(finished: Path, place: int) -> None:
    load_run(finished, {})
    flip(finished / "encoder.safetensors", place, 6)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_run(finished, {})


def test_load_run__settings_that_were_changed_are_refused(finished: Path) -> None:
    path = finished / "config.json"
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7", 1))
    with pytest.raises(CheckpointError, match=r"config\.json .*is damaged"):
        load_run(finished, {})


def test_load_run__a_summary_without_a_sum_or_no_summary_at_all_is_taken_as_it_is(finished: Path) -> None:
    path = finished / "summary.json"
    summary = json.loads(path.read_bytes())
    del summary["sha256"]
    path.write_text(json.dumps(summary))
    weights = load_run(finished, {}).state_dict()
    path.unlink()
    again = load_run(finished, {}).state_dict()
    assert weights
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_summary__one_number_that_was_changed_is_no_finished_run(finished: Path) -> None:
    path = finished / "summary.json"
    summary = json.loads(path.read_bytes())
    path.write_text(json.dumps(summary))  # Spaces are no content.
    load_run(finished, {})
    path.write_text(json.dumps({**summary, "steps": summary["steps"] + 1}))
    said: list[str] = []
    assert read_summary(finished, say=said.append) is None
    with pytest.raises(CheckpointError, match="is damaged"):
        load_run(finished, {})


@pytest.mark.parametrize("content", ["", "{}", "[" * 200_000, "[]", '{"steps": 1}'])
def test_summary__a_damaged_one_is_no_finished_run(finished: Path, content: str) -> None:
    (finished / "summary.json").write_text(content)
    said: list[str] = []
    assert read_summary(finished, say=said.append) is None
    assert "is damaged" in said[0]
    if content != '{"steps": 1}':
        with pytest.raises(CheckpointError, match="is damaged"):
            load_run(finished, {})


def test_resume__ends_a_run_again_whose_summary_is_damaged(
    finished: Path, digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "summary.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--resume", str(finished)])
    assert stop.value.code == 0, capsys.readouterr().err
    assert "summary.json is damaged" in capsys.readouterr().err
    again, before = ((run / "encoder.safetensors").read_bytes() for run in (finished, digits_run))
    assert again == before
    load_run(finished, {})


def hold(folder: Path, ready: Event) -> None:
    with alone_in_run(folder):
        ready.set()
        signal.pause()


def test_pretrain__a_second_process_in_a_run_is_told_who_is_there(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(finished, ready))
    holder.start()
    assert ready.wait(60)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", "--resume", str(finished)])
        error = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert f"is in use by process {holder.pid}" in error[-1]
        with pytest.raises(TrainingError, match="is in use by process"), alone_in_run(finished):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    # What a killed process held is free, whatever it has left.
    assert (finished / ".owner").exists()
    with alone_in_run(finished):
        pass
    assert not (finished / ".owner").exists()


def test_alone_in_run__makes_the_folder_of_a_new_run_alone(tmp_path: Path) -> None:
    with alone_in_run(tmp_path / "absent", new=False):
        assert not (tmp_path / "absent").exists()
    with alone_in_run(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"), alone_in_run(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(("name", "value"), [("depth", 10**7), ("img_size", 10**6), ("depth", 1e300)])
def test_load_run__a_size_that_no_encoder_has_is_refused_before_anything_is_built(
    finished: Path, name: str, value: float
) -> None:
    path = finished / "config.json"
    config = json.loads(path.read_bytes())
    config["encoder"]["arguments"][name] = value
    path.write_text(json.dumps(config))
    (finished / "summary.json").unlink()  # It has the sum of the settings as they were.
    with pytest.raises(CheckpointError, match=rf"config\.json: {name} is .* no encoder has more than"):
        load_run(finished, {})

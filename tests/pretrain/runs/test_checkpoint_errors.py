"""A full disk, damaged checkpoints, a process that was killed: what stays of a run, what goes, and what is said."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hjepa_pretrain.runs.checkpoint import (
    Checkpoint,
    best_or_last,
    folder,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

from hjepa_eval.errors import CheckpointError


def checkpoint_of(step: int) -> Checkpoint:
    tensors = {"x": torch.full((3,), float(step))}
    return Checkpoint({"format_version": 1}, tensors, tensors, {"step": step})


def test_save_checkpoint__full_disk_keeps_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint_of(1))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; older ones stay.*--resume"):
        save_checkpoint(tmp_path, checkpoint_of(2))
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert newest_checkpoint(tmp_path, say=print).encoder["x"].tolist() == [1, 1, 1]


def test_save_checkpoint__folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "file", checkpoint_of(1))


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_save_checkpoint__what_lies_after_the_step_that_a_run_went_on_from_goes_and_takes_no_place(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 8, 9):
        save_checkpoint(tmp_path, checkpoint_of(step), keep=9)
    for step in (8, 9):
        (folder(tmp_path, step) / "encoder.safetensors").write_bytes(b"")
    said: list[str] = []
    assert newest_checkpoint(tmp_path, say=said.append).state["step"] == 2
    assert len(said) == 2
    save_checkpoint(tmp_path, checkpoint_of(3), keep=2, best=1)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_save_checkpoint__takes_the_place_of_a_damaged_one_of_its_step(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(1))
    (folder(tmp_path, 1) / "encoder.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, checkpoint_of(1))
    assert names(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path, say=print).encoder["x"].tolist() == [1, 1, 1]


def test_save_checkpoint__what_a_killed_process_left_goes(tmp_path: Path) -> None:
    for left in (".step-00000001.4711", ".step-00000002.replaced"):
        (tmp_path / "checkpoints" / left).mkdir(parents=True)
        (tmp_path / "checkpoints" / left / "encoder.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, checkpoint_of(2))
    assert names(tmp_path) == ["step-00000002"]


def test_best_or_last__a_damaged_or_absent_best_gives_the_last_and_says_so(tmp_path: Path) -> None:
    last, said = checkpoint_of(4), []
    assert best_or_last(tmp_path, last, best=None, say=said.append) is last
    assert best_or_last(tmp_path, last, best=4, say=said.append) is last
    save_checkpoint(tmp_path, checkpoint_of(2))
    assert best_or_last(tmp_path, last, best=2, say=said.append).state["step"] == 2
    assert said == []
    (folder(tmp_path, 2) / "trainer.safetensors").write_bytes(b"")
    assert best_or_last(tmp_path, last, best=2, say=said.append) is last
    assert best_or_last(tmp_path, last, best=3, say=said.append) is last
    assert len(said) == 2
    assert "not what was written" in said[0]
    assert "no whole checkpoint" in said[1]
    assert all("weights of its last step, 4, instead of its best" in each for each in said)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"step": 6', b'"step": 7'), (b"0.25", b"0.35"), (b'"state.json"', b'"stbte.json"'), (b"{", b"[" * 200_000)],
)
def test_read_checkpoint__an_edited_state_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    tensors = {"x": torch.ones(3)}
    save_checkpoint(tmp_path, Checkpoint({}, tensors, tensors, {"step": 6, "seconds": 0.25, "ranks": [1.5, None]}))
    path = folder(tmp_path, 6) / "state.json"
    assert read_checkpoint(path.parent).state["step"] == 6
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"not what was written|no whole checkpoint"):
        read_checkpoint(path.parent)


def test_read_checkpoint__of_an_older_version_has_no_sum_of_its_state_and_is_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(1))
    path = folder(tmp_path, 1) / "state.json"
    state = json.loads(path.read_bytes())
    del state["sha256"]["state.json"]
    path.write_text(json.dumps(state))
    assert read_checkpoint(path.parent).state["step"] == 1

"""A disk that is full or a folder that cannot be written: one clear error, older checkpoints stay."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hjepa_pretrain.checkpoint import Checkpoint, list_checkpoints, newest_checkpoint, save_checkpoint

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

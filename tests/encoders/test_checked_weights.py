"""Weights that we write carry the sum of their tensors, in the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hjepa_eval.encoders.weights import checked_bytes, read_tensors
from hjepa_eval.errors import CheckpointError

TENSORS = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, -2], dtype=torch.int64), "ü": torch.ones(1)}


def test_checked_bytes__are_read_back_and_are_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(checked_bytes(TENSORS, {"epoch": 3}))
    found = read_tensors(tmp_path / "w.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in TENSORS.items()}
    assert len({checked_bytes(TENSORS, {"epoch": 3}) for _ in range(20)}) == 1


def test_read_tensors__every_flipped_bit_of_the_tensors_is_found(tmp_path: Path) -> None:
    content = checked_bytes(TENSORS)
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(start, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        (tmp_path / "w.safetensors").write_bytes(changed)
        with pytest.raises(CheckpointError, match="is not what was written"):
            read_tensors(tmp_path / "w.safetensors")

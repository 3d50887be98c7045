"""STL-10 in its official binary files, against torchvision's reading of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.named import stl10
from hjepa_eval.errors import DataError


def binary_files(root: Path, *, per_class: int = 2, split: str = "train") -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.repeat(np.arange(1, 11, dtype=np.uint8), per_class)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3 * 96 * 96), dtype=np.uint8)
    (folder / f"{split}_X.bin").write_bytes(pixels.tobytes())
    (folder / f"{split}_y.bin").write_bytes(labels.tobytes())
    return folder


def sums(folder: Path, split: str) -> list[list[str]]:
    files = (f"{split}_X.bin", f"{split}_y.bin")
    return [[name, hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()] for name in files]


@pytest.mark.parametrize("under", ["", "stl10"])
def test_stl10__equals_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str) -> None:
    """Only the checksums, and the file of images without labels, are left out of torchvision's reader."""
    from torchvision.datasets import STL10

    folder = binary_files(tmp_path / under)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    theirs = STL10(str(folder.parent), split="train")
    ours = load_dataset("stl10", "train", root=tmp_path)
    assert (len(ours), ours.class_names[3], ours.class_names[7]) == (20, "cat", "monkey")
    # Two images a class: the first of each, then the second of each.
    assert ours.labels.tolist() == [*range(10), *range(10)]
    for index in range(20):
        place = 2 * (index % 10) + index // 10
        assert theirs.labels[place] == ours.labels[index]
        np.testing.assert_array_equal(ours.image(index).numpy(), theirs.data[place])
    assert ours.notes[0].startswith("this copy holds 20 of stl10's 5,000 train images")


def test_stl10__planes_are_stored_column_by_column(tmp_path: Path) -> None:
    folder = binary_files(tmp_path)
    content = bytearray((folder / "train_X.bin").read_bytes())
    content[: 3 * 96 * 96] = bytes(3 * 96 * 96)
    content[1] = 200  # The second byte is the second row of the first column.
    (folder / "train_X.bin").write_bytes(content)
    image = load_dataset("stl10", "train", root=tmp_path).image(0)
    assert image[0, 1, 0] == 200
    assert image.sum() == 200


def test_stl10__fingerprint_follows_content_and_is_remembered(tmp_path: Path) -> None:
    folder, memo = binary_files(tmp_path), tmp_path / "memo"
    before = load_dataset("stl10", "train", root=tmp_path, memo=memo).fingerprint
    assert load_dataset("stl10", "train", root=tmp_path, memo=memo).fingerprint == before
    content = bytearray((folder / "train_X.bin").read_bytes())
    content[5] ^= 1
    (folder / "train_X.bin").write_bytes(content)
    assert load_dataset("stl10", "train", root=tmp_path, memo=memo).fingerprint != before


def test_stl10__complete_split_is_compared_with_the_published_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import STL10

    folder = binary_files(tmp_path, split="test")
    monkeypatch.setattr(stl10, "NUM_IMAGES", {"test": 20})
    with pytest.raises(DataError, match=r"test_X\.bin does not match its published MD5 sum; unpack"):
        load_dataset("stl10", "test", root=tmp_path)
    monkeypatch.setattr(STL10, "test_list", sums(folder, "test"))
    assert load_dataset("stl10", "test", root=tmp_path).notes == ()


def test_stl10__damage_is_told(tmp_path: Path) -> None:
    folder = binary_files(tmp_path)
    whole = (folder / "train_X.bin").read_bytes()
    (folder / "train_X.bin").write_bytes(whole[:-7])
    with pytest.raises(DataError, match=r"train_X.bin has 552,953 bytes; expected 20 images of 27,648 bytes"):
        load_dataset("stl10", "train", root=tmp_path)
    (folder / "train_X.bin").write_bytes(whole)
    (folder / "train_y.bin").write_bytes(bytes([11]) * 20)
    with pytest.raises(DataError, match="labels outside 1 to 10"):
        load_dataset("stl10", "train", root=tmp_path)
    (folder / "train_y.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read .*train_y.bin: it is empty"):
        load_dataset("stl10", "train", root=tmp_path)
    (folder / "train_y.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read .*train_y.bin: No such file"):
        load_dataset("stl10", "train", root=tmp_path)


def test_stl10__missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected stl10_binary/ with test_X.bin and test_y.bin.*--root.*--download"):
        load_dataset("stl10", "test", root=tmp_path)

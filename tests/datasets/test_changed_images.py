"""An image that changes between its fingerprint and its decoding is an error, from every source."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import image_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import ChangedError


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), level).save(buffer, "PNG")
    return buffer.getvalue()


def read_all(dataset: ImageDataset, *, skip: bool) -> int:
    batches = image_batches(
        dataset, Transform(8, 8), indices=range(len(dataset)), batch_size=2, workers=1, skip_bad=skip
    )
    return sum(len(indices) for _, indices, _ in batches)


def folder(root: Path) -> Path:
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(2):
            (root / "train" / name / f"{number}.png").write_bytes(picture(50 * number + len(name)))
    return root


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("memo", [False, True])
def test_folder__an_image_that_changed_is_an_error_and_never_skipped(tmp_path: Path, skip: bool, memo: bool) -> None:
    root = folder(tmp_path / "photos")
    where = tmp_path / "memo" if memo else None
    load_dataset(f"folder:{root}", "train", memo=where)
    dataset = load_dataset(f"folder:{root}", "train", memo=where)
    assert read_all(dataset, skip=skip) == 4
    image = root / "train" / "b" / "1.png"
    before = image.read_bytes()
    image.write_bytes(picture(99))
    with pytest.raises(ChangedError, match=r"b/1\.png changed since its dataset was opened"):
        read_all(dataset, skip=skip)
    image.write_bytes(before)
    assert read_all(dataset, skip=skip) == 4


def test_folder__an_image_that_could_not_be_read_then_and_can_now_is_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    (root / "train" / "a" / "2.png").symlink_to("gone.png")
    dataset = load_dataset(f"folder:{root}", "train")
    assert read_all(dataset, skip=True) == 4
    (root / "train" / "a" / "2.png").unlink()
    (root / "train" / "a" / "2.png").write_bytes(picture(3))
    with pytest.raises(ChangedError, match=r"a/2\.png changed"):
        read_all(dataset, skip=True)


def test_wds__an_image_written_over_in_an_open_shard_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(3):
            for ending, content in (("png", picture(number)), ("cls", b"0")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    dataset = load_dataset(f"wds:{tmp_path}/x.tar", "train")
    assert read_all(dataset, skip=False) == 3
    content = (tmp_path / "x.tar").read_bytes()
    place = content.index(picture(2))
    with (tmp_path / "x.tar").open("r+b") as file:
        file.seek(place)
        file.write(picture(9))
    with pytest.raises(ChangedError, match=r"2\.png changed"):
        read_all(dataset, skip=True)


def test_hf__an_image_file_that_changed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    root = folder(tmp_path / "photos")
    dataset = load_dataset(f"hf:{root}", "train")
    assert "label is column label: 2 classes, a, b" in dataset.notes[0]
    assert read_all(dataset, skip=False) == 4
    (root / "train" / "a" / "1.png").write_bytes(picture(77))
    with pytest.raises(ChangedError, match=r"row 1 of train changed"):
        read_all(dataset, skip=True)


def test_stl10__a_file_that_changed_is_an_error(tmp_path: Path) -> None:
    binary = tmp_path / "stl10_binary"
    binary.mkdir()
    labels = np.arange(1, 11, dtype=np.uint8)
    np.zeros((10, 3, 96, 96), np.uint8).tofile(binary / "train_X.bin")
    labels.tofile(binary / "train_y.bin")
    dataset = load_dataset("stl10", "train", root=tmp_path)
    assert int(dataset.image(3).sum()) == 0
    with (binary / "train_X.bin").open("r+b") as file:
        file.write(b"\1" * 100)
    with pytest.raises(ChangedError, match=r"train_X\.bin changed"):
        dataset.image(0)

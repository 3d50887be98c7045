"""Test images that are in train are counted, whatever the source."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.overlap import count_shared, shared_note


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# Numbers of pictures by class; 1 and 5 are in both splits, 5 under another class.
TRAIN = {"a": (0, 1, 2), "b": (4, 5)}
TEST = {"a": (5, 8), "b": (1, 9)}


def as_folder(root: Path) -> str:
    for split, classes in (("train", TRAIN), ("test", TEST)):
        for name, numbers in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in numbers:
                (root / split / name / f"{number + (split == 'test')}.png").write_bytes(picture(number))
    return f"folder:{root}"


def as_shards(root: Path) -> str:
    for split, classes in (("train", TRAIN), ("test", TEST)):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for label, numbers in enumerate(classes.values()):
                for number in numbers:
                    for ending, content in (("png", picture(number)), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{number}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return f"wds:{root}/{{split}}.tar"


def as_table(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("uint8")})
    tables = {
        split: datasets.Dataset.from_list(
            [
                {"image": {"bytes": picture(number), "path": None}, "label": label}
                for label, numbers in enumerate(classes.values())
                for number in numbers
            ],
            features=features,
        )
        for split, classes in (("train", TRAIN), ("test", TEST))
    }
    datasets.DatasetDict(tables).save_to_disk(str(root / "table"))
    return f"hf:{root / 'table'}"


@pytest.mark.parametrize("make", [as_folder, as_shards, as_table])
def test_count_shared__counts_test_images_whose_bytes_are_in_train(tmp_path: Path, make: object) -> None:
    spec, memo = make(tmp_path), tmp_path / "memo"  # type: ignore[operator]
    for _ in range(2):  # The second time from the memo.
        train, test = (load_dataset(spec, split, memo=memo) for split in ("train", "test"))
        assert count_shared(train, test, memo=memo) == 2
        assert count_shared(train, train, memo=memo) == 5
        # Balanced order: 0, 4 against 5, 1.
        assert count_shared(train, test, most=2, memo=memo) == 0
        assert count_shared(train, test, most=4, memo=memo) == 2


def test_count_shared__of_the_digits_by_their_pixels() -> None:
    train, test = (load_dataset("digits", split) for split in ("train", "test"))
    assert count_shared(train, test) == 0
    part = load_dataset("digits?fraction=0.1", "train")
    assert count_shared(train, part) == len(part)


def test_shared_note__says_how_many_of_how_many() -> None:
    assert shared_note(0, 12) == ()
    assert shared_note(1, 12)[0].startswith("1 of the 12 test image is in train too")
    assert shared_note(1200, 4000)[0].startswith("1,200 of the 4,000 test images are in train too")

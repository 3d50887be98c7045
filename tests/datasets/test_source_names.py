"""Every kind of data set says where its images come from, and each image has a name of its own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.files.decoding import decode


def names_of(spec: str, split: str, **more: object) -> list[str]:
    dataset = load_dataset(spec, split, **more)
    names = [dataset.source_name(index) for index in range(len(dataset))]
    assert len(set(names)) == len(names)
    return names


def test_folder__names_are_paths_from_the_root(cifar10_sample: Path) -> None:
    names = names_of(f"folder:{cifar10_sample}", "test")
    files = {file.relative_to(cifar10_sample).as_posix() for file in (cifar10_sample / "test").rglob("*.*")}
    assert set(names) == files
    dataset = load_dataset(f"folder:{cifar10_sample}", "test")
    assert torch.equal(dataset.image(7), decode((cifar10_sample / names[7]).read_bytes(), ""))


def test_subset__names_are_those_of_the_whole(cifar10_sample: Path) -> None:
    part = names_of(f"folder:{cifar10_sample}?per_class=3?seed=1", "train")
    assert len(part) == 30
    assert set(part) < set(names_of(f"folder:{cifar10_sample}", "train"))


def test_digits__a_name_is_the_row_of_load_digits() -> None:
    pixels, targets = load_digits(return_X_y=True)
    dataset = load_dataset("digits", "test")
    for index in (0, 5, 354):
        split, row = dataset.source_name(index).split("/")
        assert (split, targets[int(row)]) == ("test", dataset.labels[index])
        grey = np.round(pixels[int(row)] * (255 / 16)).reshape(8, 8)
        np.testing.assert_array_equal(dataset.image(index)[0].numpy(), grey)
    assert not {n[5:] for n in names_of("digits", "test")} & {n[6:] for n in names_of("digits", "train")}


def test_shards__a_name_is_the_shard_and_its_member(cifar10_sample: Path, tmp_path: Path) -> None:
    for split, number in (("train", 0), ("train", 1), ("val", 0)):
        with tarfile.open(tmp_path / f"few-{split}-{number}.tar", "w") as tar:
            for label, name in enumerate(("cat", "dog")):
                source = "train" if split == "train" else "test"
                image = sorted((cifar10_sample / source / name).iterdir())[number]
                tar.add(image, f"{name}/{image.name}")
                (tmp_path / "label").write_text(str(label))
                tar.add(tmp_path / "label", f"{name}/{image.stem}.cls")
    names = names_of(f"wds:{tmp_path}/few-{{split}}-{{0..1}}.tar?test={tmp_path}/few-val-0.tar", "train")
    for name in names:
        shard, _, member = name.partition("/")
        with tarfile.open(tmp_path / shard) as tar:
            assert member in tar.getnames()
    assert len(names) == 4


@pytest.mark.parametrize("with_paths", [True, False])
def test_hugging_face__a_name_is_the_tables_path_or_its_row(tmp_path: Path, with_paths: bool) -> None:
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    from PIL import Image

    def cell(shade: int) -> dict[str, object]:
        content = BytesIO()
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(content, "PNG")
        return {"bytes": content.getvalue(), "path": f"b/{shade}.png" if with_paths else None}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, shades in (("train", range(4)), ("test", range(10, 14))):
        table = {"image": [cell(shade) for shade in shades], "label": [1, 1, 0, 0]}
        (tmp_path / "t").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "t" / f"{split}-00000.parquet")
    expected = (
        ["b/2.png", "b/0.png", "b/3.png", "b/1.png"] if with_paths else ["train/2", "train/0", "train/3", "train/1"]
    )
    assert names_of(f"hf:{tmp_path / 't'}", "train") == expected

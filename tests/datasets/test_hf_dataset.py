"""Hugging Face data sets on this machine, built from real images; the network is never needed."""

from __future__ import annotations

import gc
import io
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from hjepa_eval.datasets import huggingface, load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError, NoSplitError

CLASSES = ("airplane", "cat", "dog")
SAME = Transform(32, 32)
LABELLED = Features({"img": Image(), "label": ClassLabel(names=list(CLASSES))})
NUMBERED = Features({"img": Image(), "label": Value("int64")})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def rows(folder: Path, split: str) -> dict[str, list[Any]]:
    """Images of three classes as bytes, sorted by file name, so that classes come mixed."""
    files = sorted(
        (file.name, label, file) for label, name in enumerate(CLASSES) for file in (folder / split / name).iterdir()
    )
    images = [{"bytes": file.read_bytes(), "path": name} for name, _, file in files]
    return {"img": images, "label": [label for _, label, _ in files]}


def pixel(level: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Pillow.new("L", (2, 2), level).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def small(labels: list[Any], features: Features = NUMBERED) -> Dataset:
    return Dataset.from_dict({"img": [pixel(i) for i in range(len(labels))], "label": labels}, features=features)


def saved(folder: Path, **tables: Dataset) -> str:
    DatasetDict(tables).save_to_disk(str(folder))
    return f"hf:{folder}"


def expected(folder: Path, tmp_path: Path, split: str) -> ImageDataset:
    for part in ("train", "test"):
        for name in CLASSES:
            shutil.copytree(folder / part / name, tmp_path / "three" / part / name)
    return load_dataset(f"folder:{tmp_path / 'three'}", split)


@pytest.mark.parametrize("split", ["train", "test"])
def test_hf__saved_table_is_the_folder_of_the_same_images(cifar10_sample: Path, tmp_path: Path, split: str) -> None:
    tables = {part: Dataset.from_dict(rows(cifar10_sample, part), features=LABELLED) for part in ("train", "test")}
    spec = saved(tmp_path / "saved", **tables)
    dataset, folder = load_dataset(spec, split, memo=tmp_path / "memo"), expected(cifar10_sample, tmp_path, split)
    assert dataset.name == "hf:saved"
    assert dataset.class_names == folder.class_names == CLASSES
    assert np.array_equal(dataset.labels, folder.labels)
    assert torch.equal(stack_images(dataset, SAME, workers=3), stack_images(folder, SAME))
    assert [dataset.image_name(index) for index in range(9)] == [folder.image_name(index) for index in range(9)]


def test_hf__parquet_folder_is_read_without_the_network(cifar10_sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for part, word in (("train", "train"), ("test", "validation")):
        table = Dataset.from_dict(rows(cifar10_sample, part), features=LABELLED)
        table.to_parquet(str(folder / f"{word}-00000-of-00001.parquet"))
    dataset = load_dataset(f"hf:{folder}", "test")
    images = expected(cifar10_sample, tmp_path, "test")
    assert np.array_equal(dataset.labels, images.labels)
    assert torch.equal(stack_images(dataset, SAME), stack_images(images, SAME))


def test_hf__image_folder_is_read_and_its_memo_knows_the_files(cifar10_sample: Path, tmp_path: Path) -> None:
    images, memo = expected(cifar10_sample, tmp_path, "train"), tmp_path / "memo"
    spec = f"hf:{tmp_path / 'three'}"
    dataset = load_dataset(spec, "train", memo=memo)
    assert dataset.class_names == CLASSES
    assert torch.equal(stack_images(dataset, SAME), stack_images(images, SAME))
    file = tmp_path / "three" / "train" / "cat" / str(dataset.image_name(1)).rpartition("/")[2]
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_dataset(spec, "train", memo=memo).fingerprint != dataset.fingerprint


def test_hf__unchanged_table_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, memo = saved(tmp_path / "a", train=small([0, 1])), tmp_path / "memo"
    before = load_dataset(spec, "train", memo=memo).fingerprint
    with monkeypatch.context() as context:
        context.setattr(huggingface, "_content", lambda *_: pytest.fail("an image was read again"))
        assert load_dataset(spec, "train", memo=memo).fingerprint == before
    shutil.rmtree(tmp_path / "a")
    saved(tmp_path / "a", train=small([1, 0]))
    assert load_dataset(spec, "train", memo=memo).fingerprint != before


def test_hf__class_numbers_are_names_and_validation_is_test(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a", train=small([1, 0, 1]), validation=small([0, 1]))
    train, test = load_dataset(spec, "train"), load_dataset(spec, "test")
    assert train.class_names == test.class_names == ("0", "1")
    assert train.labels.tolist() == [0, 1, 1]
    assert [int(train.image(index)[0, 0, 0]) for index in range(3)] == [1, 0, 2]
    assert train.image_name(0) is None


def test_hf__columns_and_splits_are_chosen_by_name(tmp_path: Path) -> None:
    table = small([0, 1]).add_column("coarse", [1, 0]).add_column("class", [0, 1])
    spec = saved(tmp_path / "a", small=table, large=table)
    chosen = load_dataset(f"{spec}?label=coarse?image=img?train=small?test=large", "test")
    assert chosen.labels.tolist() == [0, 1]
    assert [int(chosen.image(index)[0, 0, 0]) for index in range(2)] == [1, 0]
    assert chosen.name == "hf:a?image=img?label=coarse?test=large?train=small"
    with pytest.raises(DataError, match=r"has several label columns; its columns are .*coarse \(int64\)"):
        load_dataset(f"{spec}?train=small", "train")
    with pytest.raises(DataError, match=r"no column 'coarsse' \(did you mean 'coarse'\?\)"):
        load_dataset(f"{spec}?train=small?label=coarsse", "train")
    with pytest.raises(DataError, match=r"column coarse of .* is int64; expected the type Image"):
        load_dataset(f"{spec}?train=small?label=label?image=coarse", "train")
    with pytest.raises(DataError, match=r"has no split train; it has small, large; choose one with \?train=NAME"):
        load_dataset(f"{spec}?label=label", "train")
    with pytest.raises(DataError, match="train and test are both the split small"):
        load_dataset(f"{spec}?label=label?train=small?test=small", "test")


def test_hf__table_without_splits_is_train(tmp_path: Path) -> None:
    small([0, 1]).save_to_disk(str(tmp_path / "one"))
    assert len(load_dataset(f"hf:{tmp_path / 'one'}", "train")) == 2
    with pytest.raises(DataError, match="has no split test or validation or val or valid; it has train"):
        load_dataset(f"hf:{tmp_path / 'one'}", "test")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (small([0, 1, -1]), r"train split of hf:a is not labelled: 1 of 3 values of label are below 0"),
        (small([0, None, 1]), r"is not labelled: 1 of 3 values of label are null"),
        (small([1, 2]), r"class numbers of the train split of hf:a run from 1 to 2"),
        (small([0, 2], LABELLED), r"train split of hf:a, train: no images in class cat"),
        (small(["a", "b"], Features({"img": Image(), "label": Value("string")})), r"hf:a has no label column"),
        (Dataset.from_dict({"img": [[1, 2], [3, 4]], "label": [0, 1]}), r"hf:a has no image column of the type Image"),
    ],
)
def test_hf__what_is_no_labelled_image_table_is_refused(tmp_path: Path, table: Dataset, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        load_dataset(saved(tmp_path / "a", train=table), "train")


def test_hf__splits_must_agree(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a", train=small([0, 1]), test=small([0, 1, 2]))
    with pytest.raises(DataError, match=r"test split of hf:a: row 2 has label 2, but train has 2 classes"):
        load_dataset(spec, "test")
    other = Features({"img": Image(), "label": ClassLabel(names=["x", "y", "z"])})
    spec = saved(tmp_path / "b", train=small([0, 1, 2], LABELLED), test=small([0, 1, 2], other))
    with pytest.raises(DataError, match=r"splits train and test of hf:b name other classes"):
        load_dataset(spec, "test")


def test_hf__rows_without_image_are_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"bytes": None, "path": str(tmp_path / "gone.png")}
    remote = {"bytes": None, "path": "https://localhost/image.png"}
    cells = [pixel(7), None, gone, remote]
    table = Dataset.from_dict({"img": cells, "label": [0, 0, 0, 0]}, features=NUMBERED)
    # save_to_disk would put the files into the table.
    monkeypatch.setattr(huggingface, "open_tables", lambda *_, **__: {"train": table})
    dataset = load_dataset("hf:made", "train", memo=tmp_path / "memo")
    assert int(dataset.image(0)[0, 0, 0]) == 7
    for index, problem in (
        (1, r"row 1 of train has no image"),
        (2, r"gone\.png is no file"),
        (3, r"png is no file on"),
    ):
        with pytest.raises(DataError, match=problem):
            dataset.image(index)
    assert not (tmp_path / "memo").exists()


def test_hf__empty_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(huggingface, "open_tables", lambda *_, **__: {"train": small([])})
        with pytest.raises(DataError, match="train split of hf:made is empty"):
            load_dataset("hf:made", "train")
    with pytest.raises(DataError, match=r"^hf:.*cannot be read: "):
        load_dataset(saved(tmp_path / "a", train=small([])), "train")


def test_hf__what_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^hf:nobody/nothing is not on this machine: .*; fetch it with --download"):
        load_dataset("hf:nobody/nothing", "train")
    assert datasets.config.HF_HUB_OFFLINE is False
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^hf:.*empty cannot be read: "):
        load_dataset(f"hf:{tmp_path / 'empty'}", "train")
    (tmp_path / "empty" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"^hf:.*empty cannot be read: "):
        load_dataset(f"hf:{tmp_path / 'empty'}", "train")
    with pytest.raises(DataError, match=r"^hf: names no data set"):
        load_dataset("hf:", "train")


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8"])
def test_hf__labels_of_every_integer_type_are_read(tmp_path: Path, kind: str) -> None:
    table = small([1, 0, 1], Features({"img": Image(), "label": Value(kind)}))
    assert load_dataset(saved(tmp_path / "a", train=table), "train").labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "columns",
    [
        {"flipped": Value("int8"), "species": Value("string")},
        {"image_id": Value("int64")},
        {"night": Value("int64"), "label": Value("string")},
        {"year": Value("int32"), "label": Value("bool")},
        {"fold": Value("int32"), "label": Value("float32")},
        {"breed": ClassLabel(names=["a", "b"])},
    ],
)
def test_hf__a_label_column_is_never_guessed(tmp_path: Path, columns: dict[str, Any]) -> None:
    made = {name: [str(i % 2) if kind.dtype == "string" else i % 2 for i in range(4)] for name, kind in columns.items()}
    rows = {"img": [pixel(i) for i in range(4)], **made}
    spec = saved(tmp_path / "a", train=Dataset.from_dict(rows, features=Features({"img": Image(), **columns})))
    with pytest.raises(DataError, match=r"no label column of .*; its columns are .*; choose with \?label=NAME"):
        load_dataset(spec, "train")
    first = next(iter(columns))
    chosen = load_dataset(f"{spec}?label={first}", "train")
    assert chosen.labels.tolist() == [0, 1, 0, 1]
    names = "a, b" if first == "breed" else "0, 1"
    assert chosen.notes == (f"the label is column {first}: 2 classes, {names}",)


def test_hf__a_usual_name_among_other_numbers_is_taken_and_said(tmp_path: Path) -> None:
    table = small([1, 0]).add_column("image_id", [7, 9])
    dataset = load_dataset(saved(tmp_path / "a", train=table), "train")
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.notes == ("the label is column label: 2 classes, 0, 1",)


def test_hf__class_names_without_images_can_be_left_out(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a", train=small([0, 2], LABELLED), test=small([2, 0], LABELLED))
    with pytest.raises(DataError, match=r"no images in class cat; add images, or leave it out with \?classes="):
        load_dataset(spec, "train")
    (tmp_path / "two.txt").write_text("airplane\ndog\n")
    for split in ("train", "test"):
        assert load_dataset(f"{spec}?classes={tmp_path}/two.txt", split).class_names == ("airplane", "dog")


def test_hf__folders_inside_class_folders_are_no_classes(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        for inner in ("day", "night"):
            (root / "train" / name / inner).mkdir(parents=True)
            for number in range(2):
                (root / "train" / name / inner / f"{number}.png").write_bytes(pixel(number)["bytes"])
    with pytest.raises(DataError, match=r"innermost of nested folders became the classes \(day, night\)"):
        load_dataset(f"hf:{root}", "train")
    assert load_dataset(f"hf:{root}?label=label", "train").class_names == ("day", "night")


# The library leaves the file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hf__a_column_of_metadata_is_not_taken_for_the_label(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "train").mkdir(parents=True)
    lines = ["file_name,species,night"]
    for number in range(4):
        (root / "train" / f"{number}.png").write_bytes(pixel(number)["bytes"])
        lines.append(f"{number}.png,{'ab'[number % 2]},{number // 2}")
    (root / "train" / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"no label column .*its columns are .*species \(.*string\), night \(int64\)"):
        load_dataset(f"hf:{root}", "train")
    gc.collect()


def test_hf__a_number_for_test_is_a_share_and_a_word_a_split(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a", train=small([0, 1] * 5))
    with pytest.raises(NoSplitError, match=r"has no split test .*or test on a fifth of each class with \?test=0\.2"):
        load_dataset(spec, "test")
    assert [len(load_dataset(f"{spec}?test=0.2", split)) for split in ("train", "test")] == [8, 2]


def test_factors__are_the_columns_named_with_one_number_for_a_category_of_all_splits(tmp_path: Path) -> None:
    def table(weather: list[Any], hour: list[Any]) -> Dataset:
        made = small([0, 1, 0, 1])
        return made.add_column("weather", weather).add_column("hour", hour)  # type: ignore[no-any-return]

    name = saved(
        tmp_path / "made",
        train=table(["sun", "rain", None, "sun"], [1.5, None, 3.0, 4.0]),
        test=table(["snow", "rain", "sun", "sun"], [1.0, 2.0, 3.0, 4.0]),
    )
    train, test = (load_dataset(f"{name}?factors=weather,hour", split) for split in ("train", "test"))
    assert train.factors["weather"].categories == test.factors["weather"].categories == ("rain", "snow", "sun")
    assert train.factors["hour"].kind == "numeric"
    by_row = {train.source_name(place): train.factors["weather"].values[place] for place in range(4)}
    assert by_row["train/0"] == 2
    assert by_row["train/1"] == 0
    assert np.isnan(by_row["train/2"])
    assert load_dataset(name, "train").factors == {}
    with pytest.raises(DataError, match=r"no column 'wether' for \?factors= \(did you mean 'weather'\?\)"):
        load_dataset(f"{name}?factors=wether", "train")
    with pytest.raises(DataError, match="a factor is numbers, text, bool or ClassLabel"):
        load_dataset(f"{name}?factors=img", "train")

"""Files of features that other programs wrote: what an array's name means, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from hjepa_eval.errors import StoreError
from hjepa_eval.features.arrays import read_arrays

DRAW = np.random.default_rng(0)
TRAIN, TEST = DRAW.standard_normal((6, 4)).astype(np.float32), DRAW.standard_normal((4, 4)).astype(np.float32)
LABELS = {"train": np.array([0, 1, 2, 0, 1, 2]), "test": np.array([0, 1, 2, 0])}


def same(splits: dict, *, levels: tuple[int, ...] = (0,)) -> None:
    assert splits.keys() == {"train", "test"}
    for split, features in (("train", TRAIN), ("test", TEST)):
        assert sorted(splits[split].levels) == list(levels)
        np.testing.assert_array_equal(splits[split].levels[levels[0]], features)
        np.testing.assert_array_equal(splits[split].labels, LABELS[split])


@pytest.mark.parametrize(
    "names",
    [
        ("train", "train_labels", "test", "test_labels"),
        ("train_level0", "train_labels", "val_level0", "val_labels"),
        ("train/level0", "train/label", "test/features", "test/labels"),
        ("X_train", "y_train", "X_test", "y_test"),
    ],
)
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_archives__arrays_are_known_by_their_names(tmp_path: Path, names: tuple[str, ...], ending: str) -> None:
    content = dict(zip(names, (TRAIN, LABELS["train"], TEST, LABELS["test"]), strict=True))
    file = tmp_path / f"both{ending}"
    np.savez(file, **content) if ending == ".npz" else save_file(content, file)
    splits, classes = read_arrays([file])
    same(splits)
    assert classes is None


def test_npy__names_of_files_and_folders_say_split_and_level(tmp_path: Path) -> None:
    for split, features in (("train", TRAIN), ("test", TEST)):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "level2.npy", features)
        np.save(tmp_path / f"{split}_labels.npy", LABELS[split])
    labels = [tmp_path / "train_labels.npy", tmp_path / "test_labels.npy"]
    splits, _ = read_arrays([tmp_path / "train", tmp_path / "test" / "level2.npy"], labels=labels)
    same(splits, levels=(2,))
    assert isinstance(splits["train"].levels[2], np.memmap), "not read before it is needed"


def test_labels__of_the_only_split_need_no_split_in_their_name(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", TRAIN)
    (tmp_path / "mine.txt").write_text("cat\ndog\ncat\ndog\ncat\nmouse\n\n")
    splits, _ = read_arrays([tmp_path / "train.npy"], labels=[tmp_path / "mine.txt"])
    assert splits["train"].labels.tolist() == ["cat", "dog", "cat", "dog", "cat", "mouse"]


def test_parquet__columns_of_lists_are_levels_and_classes_have_names(tmp_path: Path) -> None:
    for split, features in (("train", TRAIN), ("test", TEST)):
        classes = [("a", "b", "c")[label] for label in LABELS[split]]
        table = {"level0": features.tolist(), "label": LABELS[split], "class": classes, "index": range(len(features))}
        pq.write_table(
            pa.table(table | {"name": [f"{split}{i}" for i in range(len(features))]}), tmp_path / f"{split}.parquet"
        )
    splits, classes = read_arrays([tmp_path / "train.parquet", tmp_path / "test.parquet"])
    same(splits)
    assert classes == ["a", "b", "c"]
    assert splits["test"].ids == ["test0", "test1", "test2", "test3"]


def test_class_names__come_with_the_features_or_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", train=TRAIN, train_labels=LABELS["train"], class_names=np.array(["a", "b", "c"]))
    (tmp_path / "c.txt").write_text("x\ny\nz\n")
    assert read_arrays([tmp_path / "f.npz"])[1] == ["a", "b", "c"]
    with pytest.raises(StoreError, match=r"f.npz calls a class a that another file calls x; make them agree"):
        read_arrays([tmp_path / "f.npz"], classes=tmp_path / "c.txt")


def objects() -> np.ndarray:
    return np.array([{}, 1], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": TRAIN}, r"train has no labels; give them with --labels, or as an array train_labels"),
        ({"train_labels": LABELS["train"]}, r"train has labels but no features; expected an array train_level0"),
        (
            {"train": TRAIN, "train_labels": LABELS["test"]},
            r"train has 6 rows, and .*train_labels 4 labels; its second axis is 4 long",
        ),
        ({"train": TRAIN[:, :3], "train_labels": LABELS["test"]}, r"train_labels 4 labels; both must be of the same"),
        ({"train": TRAIN.T, "train_labels": LABELS["train"]}, r"4 rows, .* second axis is 6 long: .* transpose it"),
        ({"train": TRAIN[None], "train_labels": LABELS["train"]}, r"shape \[1, 6, 4\]; expected .* mean over tokens"),
        ({"train": TRAIN[0], "train_labels": LABELS["train"]}, r"has the shape \[4\]; expected features \[N, D\]"),
        ({"train": TRAIN, "train_labels": TRAIN}, r"shape \[6, 4\]; expected one label per image"),
        ({"train": TRAIN, "train_level0": TRAIN}, r"train level0 is in .*, train and in .*, train_level0; keep one"),
        ({"train": TRAIN > 0, "train_labels": LABELS["train"]}, r"holds bool; expected numbers"),
        ({"train_mystery": TRAIN}, r"the array 'train_mystery' of .* does not say what it is .* call it train_level0"),
        ({"level0": TRAIN}, r"the array 'level0' of .* does not say its split .* call it train_level0"),
        (
            {"train": TRAIN, "train_labels": LABELS["train"], "train_ids": np.array(list("abcdea"))},
            r"train_ids has 1 ids more than once: a",
        ),
        ({"train": TRAIN, "train_labels": LABELS["train"], "train_ids": np.array(["a"])}, r"1 ids for 6 images"),
        (
            {"train_level0": TRAIN, "train_level1": TRAIN[:5], "train_labels": LABELS["train"]},
            r"train_level1 has 5 rows, and .*train_labels 6 labels",
        ),
        ({"train": objects()}, r"cannot be read"),
    ],
)
def test_mistakes__are_one_line_with_the_array_and_what_to_do(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(StoreError, match=message) as error:
        read_arrays([tmp_path / "f.npz"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.safetensors", "x.parquet", "x.csv", "gone.npz"])
def test_files__that_are_damaged_absent_or_of_another_kind_are_named(tmp_path: Path, name: str) -> None:
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"no such thing")
    with pytest.raises(StoreError, match=name):
        read_arrays([tmp_path / name])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no file ending in"):
        read_arrays([tmp_path / "empty"])

"""Images as people have them: Unicode forms, byte-order marks, no test split, no classes, a class that test lacks."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.subsets.superclasses import read_superclasses
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError, NoSplitError, UnknownNameError

COUNTS = {"train": 8, "test": 4}


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for place, (split, count) in enumerate(COUNTS.items()):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.png").write_bytes(picture(1000 * place + 100 * label + number))
    return root


def members(dataset: ImageDataset) -> set[str | None]:
    return {dataset.image_name(index) for index in range(len(dataset))}


def test_folder__one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", ("café", "dog"))
    (root / "test" / "café").rename(root / "test" / unicodedata.normalize("NFD", "café"))
    if len(list((root / "test").iterdir())) != 2 or not (root / "test" / unicodedata.normalize("NFD", "café")).exists():
        pytest.skip("this file system knows one form only")
    train, test = (load_dataset(f"folder:{root}", split) for split in COUNTS)
    assert train.class_names == test.class_names == (unicodedata.normalize("NFC", "café"), "dog")
    assert len(test) == 8
    listed = tmp_path / "classes.txt"
    listed.write_text(unicodedata.normalize("NFD", "café") + "\n", encoding="utf-8")
    assert len(load_dataset(f"folder:{root}?classes={listed}", "test")) == 4
    coarse = tmp_path / "coarse.json"
    decomposed = unicodedata.normalize("NFD", "café")
    coarse.write_text(json.dumps({decomposed: "drink", "dog": "animal"}, ensure_ascii=False), encoding="utf-8-sig")
    assert read_superclasses(coarse, train.class_names).names == ("animal", "drink")
    shutil.copytree(root / "train" / "café", root / "train" / unicodedata.normalize("NFD", "café"))
    with pytest.raises(DataError, match="train has two folders called café, in two Unicode forms; join them"):
        load_dataset(f"folder:{root}", "train")


def test_lists__may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    classes, images = tmp_path / "classes.txt", tmp_path / "images.txt"
    classes.write_text("a\nb\n", encoding="utf-8-sig")
    images.write_text("a/0.png\nb/0.png\nc/0.png\n", encoding="utf-8-sig")
    assert load_dataset(f"folder:{root}?classes={classes}", "train").class_names == ("a", "b")
    assert members(load_dataset(f"folder:{root}?images={images}", "train")) == {"a/0.png", "b/0.png", "c/0.png"}


def test_wds__class_names_may_begin_with_a_byte_order_mark_and_unlike_labels_are_said(tmp_path: Path) -> None:
    samples = {"0": {"cls": b"0", "json": b'{"label": 0}'}, "1": {"cls": b"1", "json": b'{"label": 0}'}}
    samples |= {"2": {"cls": b"1", "json": b"[" * 200_000}, "3": {"cls": b"0", "json": b'{"night": 1}'}}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for key, parts in samples.items():
            for ending, content in (("png", picture(int(key))), *parts.items()):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (tmp_path / "classes.txt").write_text("zebra\nlynx\n", encoding="utf-8-sig")
    for _ in range(2):  # The second time from the memo.
        dataset = load_dataset(f"wds:{tmp_path}/x.tar", "train", memo=tmp_path / "memo")
        assert dataset.class_names == ("zebra", "lynx")
        assert dataset.labels.tolist() == [0, 1, 0, 1]
        assert dataset.notes == ("1 train samples have one label in .cls and another in .json; .cls is taken: 1",)


def test_wds__a_sparse_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("0.png")
    header.size = 3 << 30
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header.tobuf())
        file.seek(header.size, os.SEEK_CUR)
        label = tarfile.TarInfo("0.cls")
        label.size = 1
        file.write(label.tobuf() + b"0".ljust(512, b"\0") + b"\0" * 1024)
    with pytest.raises(DataError, match=r"0\.png has 3,221,225,472 bytes, more than the 536,870,912 allowed"):
        load_dataset(f"wds:{tmp_path}/x.tar", "train")


def test_folder__a_file_without_an_end_is_a_bad_image(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    with (root / "train" / "a" / "z.png").open("wb") as file:
        file.truncate(3 << 30)
    dataset = load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo")
    assert len(list((tmp_path / "memo").iterdir())) == 1
    with pytest.raises(DataError, match=r"z\.png: it has 3,221,225,472 bytes, more than"):
        stack_images(dataset, Transform(4, 4))


def test_classes__rescue_a_data_set_whose_test_lacks_a_class_or_has_another(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    (root / "test" / "c").rename(root / "test" / "d")
    with pytest.raises(DataError, match=r"test has classes that train lacks: d; .*leave it out with \?classes=FILE"):
        load_dataset(f"folder:{root}", "test")
    (tmp_path / "ab.txt").write_text("a\nb\n")
    assert len(load_dataset(f"folder:{root}?classes={tmp_path}/ab.txt", "test")) == 8
    shutil.rmtree(root / "test" / "d")
    with pytest.raises(DataError, match=r"no images in class c; add images, or leave it out with \?classes=FILE"):
        load_dataset(f"folder:{root}", "test")
    assert len(load_dataset(f"folder:{root}?classes={tmp_path}/ab.txt", "test")) == 8
    (tmp_path / "abc.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="no images in class c"):
        load_dataset(f"folder:{root}?classes={tmp_path}/abc.txt", "test")


def test_test_share__parts_train_by_class_without_overlap(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    spec = f"folder:{root}?test=0.25"
    train, test = (load_dataset(spec, split) for split in COUNTS)
    assert np.bincount(train.labels).tolist() == [6, 6, 6]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    assert members(train) | members(test) == members(load_dataset(f"folder:{root}", "train"))
    assert not members(train) & members(test)
    assert (train.split, test.split) == ("train", "test")
    assert train.fingerprint != test.fingerprint
    assert "test is 25 % of each class of folder:photos's train images, drawn with seed 0" in test.notes[0]
    other = load_dataset(f"{spec}?seed=1", "test")
    assert members(other) != members(test)
    assert other.fingerprint != test.fingerprint
    again = load_dataset(spec, "test")
    assert (members(again), again.fingerprint) == (members(test), test.fingerprint)
    # A smaller one lies in a larger one; what is drawn of train is never test.
    assert members(load_dataset(f"folder:{root}?test=0.125", "test")) < members(test)
    part = load_dataset(f"{spec}?fraction=0.5", "train")
    assert np.bincount(part.labels).tolist() == [3, 3, 3]
    assert members(part) < members(train)
    assert members(load_dataset(f"{spec}?fraction=0.5", "test")) == members(test)


def test_test_share__of_a_single_folder_and_of_digits(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos") / "train"
    with pytest.raises(NoSplitError, match=r"has no train/ folder; .*add \?test=0\.2 to the data set's name"):
        load_dataset(f"folder:{root}", "train")
    train, test = (load_dataset(f"folder:{root}?test=0.25", split) for split in COUNTS)
    assert (len(train), len(test)) == (18, 6)
    digits = [load_dataset("digits?test=0.5", split) for split in COUNTS]
    assert sum(map(len, digits)) == len(load_dataset("digits", "train"))
    shutil.rmtree(root / "a")
    (root / "a").mkdir()
    (root / "a" / "0.png").write_bytes(picture(0))
    with pytest.raises(DataError, match=r"class a has one train image, which \?test= cannot part"):
        load_dataset(f"folder:{root}?test=0.25", "test")
    for wrong in ("0", "1", "nan", "-1"):
        with pytest.raises(DataError, match="test must be a number between 0 and 1"):
            load_dataset(f"folder:{root}?test={wrong}", "test")


@pytest.mark.parametrize("place", ["photos", "photos/train"])
def test_folder__images_without_classes_are_for_pretraining_only(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(picture(number))
    (folder / "notes.txt").write_text("not an image")
    spec = f"folder:{tmp_path / 'photos'}"
    dataset = load_dataset(spec, "train", unlabelled=True)
    assert not dataset.labelled
    assert dataset.labels.tolist() == [-1] * 5
    assert members(dataset) == {f"{number}.png" for number in range(5)}
    assert stack_images(dataset, Transform(4, 4)).shape == (5, 3, 4, 4)
    assert load_dataset(spec, "train", unlabelled=True).fingerprint == dataset.fingerprint
    with pytest.raises(
        DataError, match=r"holds 5 images without classes; probes need labels, so sort them into .*<class>"
    ):
        load_dataset(spec, "train")
    with pytest.raises(DataError, match=r"has no classes, so \?fraction has no meaning"):
        load_dataset(f"{spec}?fraction=0.5", "train", unlabelled=True)


def test_folder__labelled_images_stay_so_when_labels_are_not_needed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    labelled, anyway = (load_dataset(f"folder:{root}", "train", unlabelled=flag) for flag in (False, True))
    assert labelled.fingerprint == anyway.fingerprint
    assert anyway.labelled
    # Class folders without train/ will do where no test split is needed.
    assert len(load_dataset(f"folder:{root / 'train'}", "train", unlabelled=True)) == 24


def test_load_dataset__a_path_without_its_kind_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos")
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'photos' \(did you mean 'folder:photos'\?\)"):
        load_dataset("photos", "train")
    with pytest.raises(UnknownNameError, match=r"did you mean 'wds:photos\.tar'"):
        load_dataset("photos.tar", "train")
    with pytest.raises(UnknownNameError, match=r"did you mean 'digits'"):
        load_dataset("digit", "train")

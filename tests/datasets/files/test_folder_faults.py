"""Folders as they are found: links that lead nowhere, folders in folders, no permission, names that are no UTF-8."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import image_batches, stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError, UnknownNameError

SAME = Transform(8, 8)


def photos(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), images: int = 3) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(images):
                Image.new("RGB", (8, 8), (number * 40, image * 40, 90)).save(folder / f"{image}.png")
    return root


def kept_and_skipped(dataset: ImageDataset) -> tuple[int, list[str]]:
    batches = list(image_batches(dataset, SAME, indices=range(len(dataset)), batch_size=2, workers=2, skip_bad=True))
    return sum(len(images) for images, _, _ in batches), [
        reason for *_, reasons in batches for reason in reasons.values()
    ]


def forbid(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, forbidden: Path) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if os.fspath(path) == str(forbidden):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("target", ["gone.png", "lost.png"], ids=["nowhere", "itself"])
def test_folder__link_that_leads_nowhere_is_a_bad_image(tmp_path: Path, target: str) -> None:
    root = photos(tmp_path / "photos")
    (root / "train" / "cat" / "lost.png").symlink_to(target)
    dataset = load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo")
    assert len(dataset) == 7
    with pytest.raises(DataError, match=rf"cannot read .*cat/lost\.png \(a link to {target}\)"):
        stack_images(dataset, SAME)
    kept, skipped = kept_and_skipped(dataset)
    assert kept == 6
    assert len(skipped) == 1
    assert "lost.png" in skipped[0]


def test_folder__link_to_an_image_is_that_image(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "train" / "cat" / "again.png").symlink_to(root / "train" / "dog" / "2.png")
    dataset = load_dataset(f"folder:{root}", "train")
    assert kept_and_skipped(dataset) == (7, [])


def test_folder__pipe_is_a_bad_image_and_is_not_opened(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    os.mkfifo(root / "train" / "cat" / "pipe")
    kept, skipped = kept_and_skipped(load_dataset(f"folder:{root}", "train"))
    assert kept == 6
    assert "pipe is no regular file" in skipped[0]


@pytest.mark.parametrize("link", [False, True])
def test_folder__folder_inside_a_class_is_named(tmp_path: Path, link: bool) -> None:
    root = photos(tmp_path / "photos")
    (root / "train" / "cat" / ".hidden").mkdir()
    load_dataset(f"folder:{root}", "train")
    if link:
        (root / "train" / "cat" / "more").symlink_to(root / "train" / "dog")
    else:
        (root / "train" / "cat" / "more").mkdir()
    with pytest.raises(DataError, match=r"train: folders inside a class: cat/more; move"):
        load_dataset(f"folder:{root}", "train")


def test_folder__class_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "train" / "zebra").symlink_to(root / "gone")
    with pytest.raises(DataError, match=r"train/zebra is a link that leads nowhere"):
        load_dataset(f"folder:{root}", "train")


@pytest.mark.parametrize("part", ["train/cat", "train"])
def test_folder__folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    root = photos(tmp_path / "photos")
    forbid(monkeypatch, os, "listdir", root / part)
    with pytest.raises(DataError, match=rf"cannot list .*{part}: Permission denied"):
        load_dataset(f"folder:{root}", "train")


def test_folder__root_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "photos")
    forbid(monkeypatch, Path, "stat", root / "train")
    for spec, where in ((f"folder:{root}", None), ("cifar10", root)):
        with pytest.raises(DataError, match=r"cannot look at .*train: Permission denied"):
            load_dataset(spec, "train", root=where)


def test_folder__image_without_permission_is_a_bad_image_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, memo = photos(tmp_path / "photos"), tmp_path / "memo"
    with monkeypatch.context() as context:
        forbid(context, os, "open", root / "train" / "cat" / "1.png")
        dataset = load_dataset(f"folder:{root}", "train", memo=memo)
        kept, skipped = kept_and_skipped(dataset)
        with pytest.raises(DataError, match=r"cannot read .*cat/1\.png: Permission denied"):
            stack_images(dataset, SAME)
    assert (kept, len(skipped)) == (5, 1)
    assert not any(memo.iterdir())
    mended = load_dataset(f"folder:{root}", "train", memo=memo)
    assert mended.fingerprint != dataset.fingerprint
    assert kept_and_skipped(mended) == (6, [])


def test_folder__names_that_are_no_utf8_work(tmp_path: Path) -> None:
    strange = os.fsdecode(b"k\xe4se")
    try:
        root = photos(tmp_path / os.fsdecode(b"\xff"), classes=("cat", strange))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (root / "train" / "cat" / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    dataset = load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo")
    assert dataset.class_names == ("cat", strange)
    assert load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo").fingerprint == dataset.fingerprint
    kept, skipped = kept_and_skipped(dataset)
    assert kept == 6
    assert os.fsdecode(b"\xfe.png") in skipped[0]


def test_folder__file_replaced_by_another_of_its_size_and_time_is_noticed(tmp_path: Path) -> None:
    root, memo = photos(tmp_path / "photos"), tmp_path / "memo"
    image = root / "train" / "cat" / "0.png"
    before = load_dataset(f"folder:{root}", "train", memo=memo).fingerprint
    status, content = image.stat(), bytearray(image.read_bytes())
    content[-1] ^= 1
    other = image.with_name(".other")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(image)
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert load_dataset(f"folder:{root}", "train", memo=memo).fingerprint != before


@pytest.mark.parametrize("record", ["[]", "3", "null", '"x"', "{}", "\udcff"])
def test_folder__foreign_memo_costs_a_second_reading_only(tmp_path: Path, record: str) -> None:
    root, memo = photos(tmp_path / "photos"), tmp_path / "memo"
    before = load_dataset(f"folder:{root}", "train", memo=memo).fingerprint
    next(memo.iterdir()).write_bytes(os.fsencode(record))
    assert load_dataset(f"folder:{root}", "train", memo=memo).fingerprint == before


@pytest.mark.parametrize(("classes", "images"), [(("cat",), 3), (("cat",), 1), (("cat", "dog"), 1)])
def test_folder__one_class_or_one_image_loads(tmp_path: Path, classes: tuple[str, ...], images: int) -> None:
    root = photos(tmp_path / "photos", classes=classes, images=images)
    dataset = load_dataset(f"folder:{root}", "test")
    assert len(dataset) == len(classes) * images
    assert dataset.class_names == classes
    assert np.bincount(dataset.labels).tolist() == [images] * len(classes)
    assert torch.equal(stack_images(dataset, SAME)[-1], dataset.image(len(dataset) - 1))


@pytest.mark.parametrize("spec", ["digits:foo", "cifar10:foo", "cifar100:foo", "digits:"])
def test_load_dataset__argument_that_is_not_taken_is_refused(spec: str, tmp_path: Path) -> None:
    name = spec.partition(":")[0]
    with pytest.raises(UnknownNameError, match=f"dataset {name} takes no argument, found '{spec}'; write {name}$"):
        load_dataset(spec, "train", root=tmp_path)


def test_load_dataset__tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("folder:~/photos", "train")) == 6
    assert len(load_dataset("folder", "train", root=Path("~/photos"))) == 6
    with pytest.raises(DataError, match="no folder ~nobody-of-this-name/x"):
        load_dataset("folder:~nobody-of-this-name/x", "train")


def test_folder__file_from_before_1970_is_no_other_than_itself(tmp_path: Path) -> None:
    root, memo = photos(tmp_path / "photos"), tmp_path / "memo"
    for seconds in (-5, -6):
        os.utime(root / "train" / "cat" / "0.png", (seconds, seconds))
        before = load_dataset(f"folder:{root}", "train", memo=memo).fingerprint
        assert load_dataset(f"folder:{root}", "train", memo=memo).fingerprint == before
    assert len(list(memo.iterdir())) == 2

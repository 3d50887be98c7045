"""Tar shards, written by webdataset itself from real images, and shards as they should not be."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from hjepa_eval.cli import main
from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.shards import tar_index, wds
from hjepa_eval.datasets.shards.tar_index import index_shard
from hjepa_eval.datasets.shards.tar_members import read_members
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError

CLASSES = ("airplane", "automobile", "cat", "dog")
SAME = Transform(32, 32)
PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def samples(folder: Path, split: str) -> list[dict[str, Any]]:
    """The images of four classes, sorted by file name, so that classes come mixed."""
    files = sorted(
        (file.name, label, file) for label, name in enumerate(CLASSES) for file in (folder / split / name).iterdir()
    )
    return [
        {"__key__": f"{label}-{Path(name).stem}", "jpg": file.read_bytes(), "cls": label} for name, label, file in files
    ]


@pytest.fixture(scope="module")
def shards(cifar10_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 50 images each, train and val, beside the names of the classes."""
    folder = tmp_path_factory.mktemp("shards")
    for split, word in (("train", "train"), ("test", "val")):
        with webdataset.ShardWriter(str(folder / f"small-{word}-%03d.tar"), maxcount=50, verbose=0) as writer:
            for sample in samples(cifar10_sample, split):
                writer.write(sample)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def make_tar(
    path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], *, kind: int = tarfile.GNU_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def good(*labels: int) -> list[tuple[str, bytes]]:
    return [
        part
        for number, label in enumerate(labels)
        for part in ((f"{number}.png", PNG), (f"{number}.cls", str(label).encode()))
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_wds__is_the_folder_of_the_same_images(shards: Path, cifar10_sample: Path, tmp_path: Path, split: str) -> None:
    chosen = tmp_path / "four"
    for part in ("train", "test"):
        (chosen / part).mkdir(parents=True)
        for name in CLASSES:
            (chosen / part / name).symlink_to(cifar10_sample / part / name)
    folder = load_dataset(f"folder:{chosen}?links=follow", split)
    packed = load_dataset(f"wds:{shards}/small-{{split}}-*.tar", split, memo=tmp_path / "memo")
    assert packed.class_names == folder.class_names == CLASSES
    assert np.array_equal(packed.labels, folder.labels)
    assert torch.equal(stack_images(packed, SAME, workers=3), stack_images(folder, SAME))
    name = packed.image_name(1)
    assert name is not None
    assert name.startswith("automobile/1-")
    assert name.endswith(".jpg")
    assert packed.name == "wds:small"


def test_wds__unchanged_shards_are_not_read_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"wds:{shards}/small-{{split}}-{{000..003}}.tar?test={shards}/small-val-{{000,001}}.tar"
    first = load_dataset(spec, "train", memo=tmp_path / "memo")
    monkeypatch.setattr(tar_index, "_list_images", lambda *_: pytest.fail("a shard was read again"))
    again = load_dataset(spec, "train", memo=tmp_path / "memo")
    assert again.fingerprint == first.fingerprint
    assert torch.equal(stack_images(again, SAME), stack_images(first, SAME))
    with pytest.raises(pytest.fail.Exception):
        load_dataset(spec, "test", memo=tmp_path / "memo")


def test_wds__shards_are_read_once_for_all_who_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read, readings = make_tar(tmp_path / "a.tar", good(0, 1)), tar_index.read_members, []

    def slow_read(file: Any, path: Path) -> Any:
        readings.append(path)
        time.sleep(0.2)
        return read(file, path)

    monkeypatch.setattr(tar_index, "read_members", slow_read)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: index_shard(path, memo=tmp_path / "memo"), range(4)))
    assert readings == [path]
    assert [index.labels.tolist() for index in found] == [[0, 1]] * 4


def test_wds__a_shard_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, memo = tmp_path / "a-train.tar", tmp_path / "memo"
    make_tar(path, good(0, 1))
    before = load_dataset(f"wds:{tmp_path}/a-train.tar", "train", memo=memo)
    make_tar(path, good(1, 0))
    after = load_dataset(f"wds:{tmp_path}/a-train.tar", "train", memo=memo)
    assert before.fingerprint != after.fingerprint
    with pytest.raises(DataError, match=r"a-train\.tar changed since it was indexed"):
        before.image(0)


@pytest.mark.parametrize("folder", ["", "a/", "ü/" * 40, "long/" * 40])
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read_members__are_those_of_tarfile(tmp_path: Path, folder: str, kind: int) -> None:
    parts: list[Any] = [(f"{folder}{number}.png", bytes(number)) for number in (0, 1, 511, 512, 513)]
    path = make_tar(tmp_path / "x.tar", [link(folder or "a/", tarfile.DIRTYPE), *parts], kind=kind)
    with tarfile.open(path) as archive, path.open("rb") as file:
        expected = [(each.name, each.offset_data, each.size) for each in archive if each.isfile()]
        assert read_members(file, path) == expected
    assert len(expected) == 5


@pytest.mark.parametrize("record", ["[]", "{}", '{"signature": 1}', "no json"])
def test_wds__foreign_memo_costs_a_second_reading_only(tmp_path: Path, record: str) -> None:
    spec, memo = f"wds:{make_tar(tmp_path / 'a.tar', good(0, 1))}", tmp_path / "memo"
    before = load_dataset(spec, "train", memo=memo).fingerprint
    next(memo.iterdir()).write_text(record)
    assert load_dataset(spec, "train", memo=memo).fingerprint == before


def test_wds__more_shards_than_descriptors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        make_tar(tmp_path / f"{number}.tar", [(f"{number}.png", PNG), (f"{number}.cls", b"0\n")])
    monkeypatch.setattr(wds, "MOST_OPEN", 2)
    dataset = load_dataset(f"wds:{tmp_path}/{{0..4}}.tar", "train")
    assert stack_images(dataset, Transform(1, 1), workers=4).eq(0).all()
    assert len(dataset) == 5


def test_wds__labels_may_come_as_json_and_classes_as_numbers(tmp_path: Path) -> None:
    for split, labels in (("train", (1, 0, 1)), ("test", (0, 1))):
        parts = [
            part
            for number, label in enumerate(labels)
            for part in ((f"x/{number}.PNG", PNG), (f"x/{number}.json", json.dumps({"label": label}).encode()))
        ]
        make_tar(tmp_path / f"{split}.tar", [*parts, ("README", b"no sample"), ("x/._0.jpg", b"hidden")])
    train, test = (load_dataset(f"wds:{tmp_path}/{{split}}.tar", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("0", "1")
    assert train.labels.tolist() == [0, 1, 1]
    assert [train.image_name(index) for index in range(3)] == ["0/x/1.PNG", "1/x/0.PNG", "1/x/2.PNG"]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("/abs/0.png", PNG)], r"member '/abs/0\.png' points out of the archive"),
        ([("a/../../0.png", PNG)], r"member 'a/\.\./\.\./0\.png' points out"),
        ([link("0.png", tarfile.SYMTYPE)], r"member '0\.png' is a link, a device"),
        ([link("0.png", tarfile.LNKTYPE)], r"member '0\.png' is a link, a device"),
        ([link("0.png", tarfile.CHRTYPE)], r"member '0\.png' is a link, a device"),
        ([("0.png", PNG), ("0.txt", b"3")], r"sample 0 has no label; expected a member 0\.cls or 0\.json"),
        ([("0.cls", b"3")], r"sample 0 has no image \(it has cls\)"),
        ([("0.png", PNG), ("0.jpg", PNG), ("0.cls", b"0")], r"sample 0 has several images \(png, jpg\)"),
        ([("0.png", PNG), ("0.cls", b"cat")], r"label in 0\.cls must be a class number from 0, found 'cat'"),
        ([("0.png", PNG), ("0.cls", b"-1")], r"label in 0\.cls must be a class number from 0, found '-1'"),
        ([("0.png", PNG), ("0.json", b"{")], r"0\.json is no JSON"),
        ([("0.png", PNG), ("0.json", b'{"label": "cat"}')], r"0\.json must hold .* found label 'cat'"),
        ([*good(0), *good(0)], r"two members 0\.png; keys must differ"),
        ([], "holds no samples"),
        (good(1, 2), r"class numbers of .*x\.tar run from 1 to 2; expected 0 to 1"),
        ([("0.png", PNG), ("0.cls", b"999999999")], "run from 999999999"),
    ],
)
def test_wds__bad_shard_is_named_with_its_member(
    tmp_path: Path, members: Sequence[tuple[str, bytes]], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        load_dataset(f"wds:{make_tar(tmp_path / 'x.tar', members)}", "train")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda tar: tar[:700], "truncated"),
        (lambda tar: tar[:2048], r"truncated or damaged at byte 2048"),
        (lambda tar: tar[:1030] + b"x" + tar[1031:], "truncated or damaged at byte 1024"),
        (lambda tar: tar + tar, "has data behind its end at byte 4096"),
        (lambda tar: b"", "no tar archive"),
        (lambda tar: b"hello" * 999, "no tar archive"),
        (lambda tar: b"\x1f\x8b" + tar, "is compressed; .* unpack it with gunzip"),
    ],
    ids=["cut data", "cut between members", "damaged header", "joined", "empty", "no tar", "gzip"],
)
def test_wds__damaged_shard_in_the_middle_is_named(tmp_path: Path, content: Any, problem: str) -> None:
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", good(0, 1))
    middle = tmp_path / "1.tar"
    middle.write_bytes(content(middle.read_bytes()))
    with pytest.raises(DataError, match=rf"shard .*1\.tar .*{problem}"):
        load_dataset(f"wds:{tmp_path}/{{0..2}}.tar", "train")


def test_wds__a_folder_is_no_shard(tmp_path: Path) -> None:
    make_tar(tmp_path / "0.tar", good(0, 1))
    (tmp_path / "1.tar").mkdir()
    with pytest.raises(DataError, match=r"1\.tar is no regular file"):
        load_dataset(f"wds:{tmp_path}/{{0,1}}.tar", "train")


def test_wds__splits_must_agree(tmp_path: Path) -> None:
    make_tar(tmp_path / "train.tar", good(0, 1))
    make_tar(tmp_path / "test.tar", good(0, 1, 2))
    with pytest.raises(DataError, match=r"test\.tar: 2\.png has label 2, but train has 2 classes"):
        load_dataset(f"wds:{tmp_path}/{{split}}.tar", "test")
    with pytest.raises(DataError, match=r"names train shards only; write \{split\}"):
        load_dataset(f"wds:{tmp_path}/train.tar", "test")
    make_tar(tmp_path / "val.tar", good(1))
    with pytest.raises(DataError, match=r"val\.tar, test: no images in class 0"):
        load_dataset(f"wds:{tmp_path}/train.tar?test={tmp_path}/val.tar", "test")
    make_tar(tmp_path / "copy.tar", good(0, 1))
    with pytest.raises(DataError, match=r"train\.tar and .*copy\.tar are the same"):
        load_dataset(f"wds:{tmp_path}/{{train,copy}}.tar", "train")


def test_wds__test_shards_that_are_train_shards_are_refused(tmp_path: Path) -> None:
    for name, labels in (("a-0", (0, 1)), ("a-1", (1, 0)), ("b", (0, 0, 1)), ("c", (0, 1, 1))):
        make_tar(tmp_path / f"{name}.tar", good(*labels))
    (tmp_path / "link.tar").symlink_to("a-1.tar")
    (tmp_path / "copy.tar").write_bytes((tmp_path / "a-0.tar").read_bytes())
    train = f"wds:{tmp_path}/a-{{0,1}}.tar?test={tmp_path}/"
    for test, problem in (
        ("a-{0..1}.tar", r"2 of the 2 test shards are train shards too: .*a-0\.tar, .*a-1\.tar; name other"),
        ("{b,link}.tar", r"1 of the 2 test shards are train shards too: .*link\.tar; name other"),
        ("{b,copy}.tar", r"the test shard .*copy\.tar is a copy of the train shard .*a-0\.tar; name other"),
    ):
        with pytest.raises(DataError, match=problem):
            load_dataset(f"{train}{test}", "test")
        # With names for the classes, the train shards need not be indexed.
        (tmp_path / "classes.txt").write_text("cat\ndog")
        with pytest.raises(DataError, match=problem):
            load_dataset(f"{train}{test}", "test")
        (tmp_path / "classes.txt").unlink()
    assert len(load_dataset(f"{train}{{b,c}}.tar", "test")) == 6


@pytest.mark.parametrize("names", ["cat\n\ndog", "cat\ncat", ""])
def test_wds__class_names_must_be_one_a_line(tmp_path: Path, names: str) -> None:
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DataError, match=r"classes\.txt must be one a line"):
        load_dataset(f"wds:{make_tar(tmp_path / 'x.tar', good(0, 1))}", "train")


def test_knn__reads_shards(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"wds:{shards}/small-{{split}}-{{000..003}}.tar?test={shards}/small-val-*.tar"
    with pytest.raises(SystemExit) as stop:
        main(["knn", "--model", "random:vit_tiny_patch8_32", "--dataset", spec, "--json", "--quiet"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    assert json.loads(output.out)

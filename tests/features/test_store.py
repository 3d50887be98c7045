from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import cache as cache_module
from hjepa_eval.features import store as store_module
from hjepa_eval.features.cache import find_stores, list_stores, remove_store, store_folder
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore, StoreWriter, verify_store


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_SIZE", 10)


def manifest_of(num_images: int, **identity: object) -> Manifest:
    return Manifest(
        identity={"precision": "fp32", **identity},
        encoder="pixels",
        dataset="folder:my photos",
        split="train",
        readout="mean",
        levels=(StoredLevel(0, "fine", 3, (2, 2), 4), StoredLevel(1, "coarse", 2, (1, 1), 1)),
        class_names=("a", "b"),
        dataset_size=100,
        num_images=num_images,
    )


def tensors_of(start: int, stop: int) -> dict[str, np.ndarray]:
    index = np.arange(start, stop, dtype=np.int64)
    fine = np.stack([index, index * 2, index * 3], axis=1).astype(np.float32)
    return {"level0": fine, "level1": fine[:, :2].copy(), "labels": index % 2, "index": index}


def fill(folder: Path, num_images: int, *, shards: int | None = None) -> StoreWriter:
    writer = StoreWriter(folder, manifest_of(num_images))
    for part in writer.missing[:shards]:
        writer.write(part, tensors_of(part.start, part.stop))
    return writer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_store__gives_back_what_was_written(tmp_path: Path) -> None:
    fill(tmp_path / "s", 25).finish()
    store = FeatureStore(tmp_path / "s")
    np.testing.assert_array_equal(store.features(0), tensors_of(0, 25)["level0"])
    np.testing.assert_array_equal(store.labels(limit=13), np.arange(13) % 2)
    assert store.features(1, limit=13).shape == (13, 2)
    assert store.features(0).dtype == np.float32
    with pytest.raises(UnknownNameError, match=r"'5'.*known: 0, 1"):
        store.features(5)


def test_store__without_manifest_is_no_store(tmp_path: Path) -> None:
    fill(tmp_path / "s", 25, shards=2)
    with pytest.raises(StoreError, match="no complete store"):
        FeatureStore(tmp_path / "s")
    with pytest.raises(StoreError, match=r"00000020-00000025\.safetensors"):
        fill(tmp_path / "s", 25, shards=0).finish()


def test_writer__resumed_store_has_the_same_bytes_as_an_uninterrupted_one(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 25).finish()
    fill(tmp_path / "resumed", 25, shards=1)
    writer = fill(tmp_path / "resumed", 25, shards=0)
    assert [part.start for part in writer.missing] == [10, 20]
    fill(tmp_path / "resumed", 25).finish()
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_writer__longer_store_keeps_the_full_shards_of_the_shorter(tmp_path: Path) -> None:
    fill(tmp_path / "s", 15).finish()
    writer = fill(tmp_path / "s", 25, shards=0)
    assert [(part.start, part.stop) for part in writer.missing] == [(10, 20), (20, 25)]
    fill(tmp_path / "s", 25).finish()
    fill(tmp_path / "whole", 25).finish()
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_store__damaged_shard_is_named_refused_and_the_only_one_redone(tmp_path: Path, damage: str) -> None:
    fill(tmp_path / "s", 25).finish()
    before = contents(tmp_path / "s")
    shard = tmp_path / "s" / "00000010-00000020.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(content[:-7])
    elif damage == "flip":
        content[-1] ^= 1
        shard.write_bytes(content)
    else:
        shard.unlink()
    assert len(verify_store(tmp_path / "s")) == 1
    assert shard.name in verify_store(tmp_path / "s")[0]
    with pytest.raises(StoreError, match=shard.name):
        FeatureStore(tmp_path / "s")
    writer = fill(tmp_path / "s", 25, shards=0)
    assert [part.file for part in writer.missing] == [shard.name]
    fill(tmp_path / "s", 25).finish()
    assert contents(tmp_path / "s") == before


def test_store__edited_manifest_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s", 25).finish()
    path = tmp_path / "s" / "manifest.json"
    content = json.loads(path.read_text())
    content["class_names"] = ["b", "a"]
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="edited or damaged"):
        FeatureStore(tmp_path / "s")
    assert "edited" in verify_store(tmp_path / "s")[0]
    assert fill(tmp_path / "s", 25, shards=0).missing == []


def test_writer__shards_of_another_key_are_not_taken_over(tmp_path: Path) -> None:
    fill(tmp_path / "s", 25).finish()
    assert len(StoreWriter(tmp_path / "s", manifest_of(25, precision="bf16")).missing) == 3


def test_writer__full_disk_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = fill(tmp_path / "s", 25, shards=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; 1 finished shards stay"):
        writer.write(writer.missing[0], tensors_of(10, 20))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["00000000-00000010.safetensors"]


def test_writer__unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="--cache-dir"):
        StoreWriter(tmp_path / "file" / "s", manifest_of(5))


def cached(cache: Path, *, dataset: str = "folder:my photos", **identity: object) -> Path:
    manifest = replace(manifest_of(25, **identity), dataset=dataset)
    folder = store_folder(cache, manifest)
    writer = StoreWriter(folder, manifest)
    for part in writer.missing:
        writer.write(part, tensors_of(part.start, part.stop))
    writer.finish()
    folder.with_name(f"{folder.name}.lock").touch()
    return folder


def test_cache__finds_lists_and_removes(tmp_path: Path) -> None:
    key = manifest_of(25).key
    folder = cached(tmp_path)
    assert folder.parent.parent.name == "folder-my-photos"
    assert [store.manifest.rows for store in list_stores(tmp_path)] == [25]
    for wanted in (key[:6], key[:16], key, "folder-my-photos", "all"):
        assert [store.folder for store in find_stores(tmp_path, wanted)] == [folder]
    with pytest.raises(StoreError, match="no store 'zzz'"):
        find_stores(tmp_path, "zzz")
    assert remove_store(find_stores(tmp_path, "all")[0]) > 0
    assert list(list_stores(tmp_path)) == []
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 5])
def test_find_stores__short_key_fits_nothing(tmp_path: Path, length: int) -> None:
    wanted = cached(tmp_path).name[:length]
    with pytest.raises(StoreError, match=f"no store '{wanted}'.*all, the name of a dataset, or at least 6 characters"):
        find_stores(tmp_path, wanted)
    with pytest.raises(StoreError, match="no store 'folder-my-pho'"):
        find_stores(tmp_path, "folder-my-pho")


def test_find_stores__key_of_several_stores_is_refused(tmp_path: Path) -> None:
    key = cached(tmp_path).name
    cached(tmp_path, dataset="other")
    with pytest.raises(StoreError, match=rf"fits 2 stores: folder-my-photos/train/{key}, other/train/{key}; give more"):
        find_stores(tmp_path, key)
    assert len(find_stores(tmp_path, "other")) == 1


def test_list_stores__lock_files_are_no_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(tmp_path)
    original = Path.glob
    # As on Python 3.10, where a slash at the end of a pattern does not leave out files.
    monkeypatch.setattr(Path, "glob", lambda self, pattern: original(self, pattern.rstrip("/")))
    assert [store.folder for store in list_stores(tmp_path)] == [folder]


def test_remove_store__failure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(tmp_path)

    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache_module.shutil, "rmtree", fail)
    with pytest.raises(StoreError, match=f"cannot remove {folder}: Permission denied"):
        remove_store(find_stores(tmp_path, "all")[0])


def test_verify_store__store_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    wrong = Path(shutil.copytree(folder, folder.with_name("0123456789abcdef")))
    assert verify_store(folder) == []
    assert verify_store(wrong) == [
        f"{wrong} holds the store {folder.name}: it was copied to the wrong place; remove it"
    ]
    assert verify_store(Path(shutil.copytree(folder, tmp_path / "mine"))) == []
    assert FeatureStore(wrong).labels().shape == (25,)


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    del content["checksum"]
    change(content)
    content["checksum"] = hash_json(content)
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda c: c["shards"][1].update(file="../secret.safetensors"),
            r"'\.\./secret\.safetensors' is not '00000010-",
        ),
        (lambda c: c["shards"][1].update(file=c["shards"][0]["file"]), "shard name"),
        (lambda c: c["shards"][1].update(start="/etc"), "does not fit its format"),
        (lambda c: c.update(levels=3), "does not fit its format"),
        (lambda c: c.pop("identity"), "does not fit its format"),
    ],
)
def test_store__forged_manifest_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], part: str
) -> None:
    fill(tmp_path / "s", 25).finish()
    forge(tmp_path / "s", change)
    with pytest.raises(StoreError, match=part):
        FeatureStore(tmp_path / "s")


@pytest.mark.parametrize("fault", ["gone", "garbage", "lacking"])
def test_store__shard_lost_after_opening_is_named(tmp_path: Path, fault: str) -> None:
    fill(tmp_path / "s", 25).finish()
    store = FeatureStore(tmp_path / "s")
    shard = tmp_path / "s" / "00000010-00000020.safetensors"
    if fault == "gone":
        shard.unlink()
    else:
        shard.write_bytes(b"garbage" * 9 if fault == "garbage" else save({"other": np.zeros(3)}))
    for read in (store.labels, store.index, lambda: store.features(0)):
        with pytest.raises(StoreError, match=rf"{shard.name} cannot be read: .*run hjepa extract again"):
            read()


def test_store__shard_that_cannot_be_hashed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "s", 25).finish()

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert len(verify_store(tmp_path / "s")) == 3
    with pytest.raises(StoreError, match=r"00000000-00000010\.safetensors cannot be read: Input/output error"):
        FeatureStore(tmp_path / "s")
    assert len(fill(tmp_path / "s", 25, shards=0).missing) == 3


def test_store__reads_only_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "s", 25).finish()
    store = FeatureStore(tmp_path / "s")
    read: list[tuple[str, str]] = []
    original = store_module.read_rows

    def watch(path: Path, name: str, *, rows: int) -> np.ndarray:
        read.append((path.name[:8], name))
        return original(path, name, rows=rows)

    monkeypatch.setattr(store_module, "read_rows", watch)
    for _ in range(2):
        store.labels()[:] = 7  # A reader's change must not reach the next reader.
        store.index()[:] = 7
    np.testing.assert_array_equal(store.labels(), np.arange(25) % 2)
    np.testing.assert_array_equal(store.index(), np.arange(25))
    assert len(read) == 6
    read.clear()
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("a whole shard was read"))
    np.testing.assert_array_equal(store.features(1, limit=13), tensors_of(0, 13)["level1"])
    assert read == [("00000000", "level1"), ("00000010", "level1")]
    assert store.features(0, limit=0).shape == (0, 3)


def test_store__shard_without_a_readable_image_is_fine(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", manifest_of(25))
    reasons = tuple(f"{number}.png is empty" for number in range(10))
    for part, skipped in zip(writer.missing, (reasons, (), ()), strict=True):
        writer.write(part, tensors_of(part.start, part.start if skipped else part.stop), skipped)
    store = writer.finish()
    assert store.features(0).shape == (15, 3)
    assert store.labels(limit=5).shape == (0,)
    assert store.index(limit=12).tolist() == [10, 11]


def test_writer__names_that_are_no_utf8_and_wide_spaces_survive_a_restart(tmp_path: Path) -> None:
    reason = os.fsdecode(b"/photos/k\xe4se  1.png is empty")
    for folder in (tmp_path / "whole", tmp_path / "resumed"):
        manifest = replace(manifest_of(25), class_names=("a", os.fsdecode(b"\xff")))
        writer = StoreWriter(folder, manifest)
        for part in writer.missing:
            rows = tensors_of(part.start, part.stop - 1)
            writer.write(part, rows, (reason,))
            if folder.name == "resumed":
                writer = StoreWriter(folder, manifest)
        writer.finish()
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    found = FeatureStore(tmp_path / "whole").manifest
    assert found.skipped == (" ".join(reason.split()),) * 3
    assert found.class_names == ("a", os.fsdecode(b"\xff"))
    (tmp_path / "whole" / "manifest.json").read_text(encoding="utf-8")

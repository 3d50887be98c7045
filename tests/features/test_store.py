from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import store as store_module
from hjepa_eval.features.cache import find_stores, list_stores, remove_store, store_folder
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


def test_cache__finds_lists_and_removes(tmp_path: Path) -> None:
    manifest = manifest_of(25)
    folder = store_folder(tmp_path, manifest)
    assert folder.parent.parent.name == "folder-my-photos"
    fill(folder, 25).finish()
    assert [store.manifest.rows for store in list_stores(tmp_path)] == [25]
    assert find_stores(tmp_path, manifest.key[:6])[0].folder == folder
    with pytest.raises(StoreError, match="no store 'zzz'"):
        find_stores(tmp_path, "zzz")
    assert remove_store(find_stores(tmp_path, "all")[0]) > 0
    assert list(list_stores(tmp_path)) == []

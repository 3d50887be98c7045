from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features import store as store_module
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore, verify_store
from hjepa_eval.features.writer import StoreWriter


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", 10)


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


def test_verify_store__store_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "features" / "data" / "train" / manifest_of(25).key[:16]
    fill(folder, 25).finish()
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

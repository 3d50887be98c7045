"""Stores in a cache: found, listed, compared, removed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hjepa_eval.errors import StoreError
from hjepa_eval.features import cache as cache_module
from hjepa_eval.features.cache import (
    find_manifest,
    find_stores,
    is_filling,
    list_stores,
    remove_store,
    store_folder,
    stored_bytes,
)
from hjepa_eval.features.fingerprint import differences
from hjepa_eval.features.manifest import read_manifest
from hjepa_eval.features.store import FeatureStore


@pytest.fixture
def cached(make_store, tmp_path: Path) -> Callable[..., Path]:
    """Fill a store of 25 images in its place in the cache, with the lock that earlier versions left beside it."""

    def cached(*, dataset: str = "folder:my photos") -> Path:
        made = make_store(tmp_path / "made", images=25, widths=(3, 2), dataset=dataset)
        folder = store_folder(tmp_path, made.manifest)
        folder.parent.mkdir(parents=True)
        shutil.move(made.folder, folder)
        folder.with_name(f"{folder.name}.lock").touch()
        return folder

    return cached


def test_cache__finds_lists_and_removes(cached, tmp_path: Path) -> None:
    folder = cached()
    key = read_manifest(folder).key
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
def test_find_stores__short_key_fits_nothing(cached, tmp_path: Path, length: int) -> None:
    wanted = cached().name[:length]
    with pytest.raises(StoreError, match=f"no store '{wanted}'.*all, the name of a dataset, or at least 6 characters"):
        find_stores(tmp_path, wanted)
    with pytest.raises(StoreError, match="no store 'folder-my-pho'"):
        find_stores(tmp_path, "folder-my-pho")


def test_find_stores__key_of_several_stores_is_refused(cached, tmp_path: Path) -> None:
    key = cached().name
    cached(dataset="other")
    with pytest.raises(StoreError, match=rf"fits 2 stores: folder-my-photos/train/{key}, other/train/{key}; give more"):
        find_stores(tmp_path, key)
    assert len(find_stores(tmp_path, "other")) == 1


def test_list_stores__lock_files_are_no_stores(cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached()
    original = Path.glob
    # As on Python 3.10, where a slash at the end of a pattern does not leave out files.
    monkeypatch.setattr(Path, "glob", lambda self, pattern: original(self, pattern.rstrip("/")))
    assert [store.folder for store in list_stores(tmp_path)] == [folder]


def test_remove_store__failure_is_named(cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached()

    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache_module.shutil, "rmtree", fail)
    with pytest.raises(StoreError, match=f"cannot remove {folder}: Permission denied"):
        remove_store(find_stores(tmp_path, "all")[0])


def test_is_filling__a_look_leaves_nothing_beside_a_store(cached) -> None:
    folder = cached()
    folder.with_name(f"{folder.name}.lock").unlink()
    assert not is_filling(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_stored_bytes__store_that_is_gone_has_none(cached, tmp_path: Path) -> None:
    folder = cached()
    assert stored_bytes(folder) == sum(path.stat().st_size for path in folder.iterdir()) > 0
    assert stored_bytes(tmp_path / "gone") == 0


def test_find_manifest__one_store_by_key_dataset_or_folder(make_store, tmp_path: Path) -> None:
    place = tmp_path / "features" / "data" / "train"
    folder = make_store(place / "aaaaaa", images=50, precision="fp32").folder
    manifest = FeatureStore(folder).manifest
    for wanted in (manifest.key[:8] if manifest.key.startswith("aaaaaa") else "aaaaaa", "data", str(folder)):
        assert find_manifest(tmp_path, wanted) == manifest
    other = make_store(place / "bbbbbb", images=50, precision="bf16").manifest
    with pytest.raises(StoreError, match=r"'data' fits 2 stores: aaaaaa \(train\), bbbbbb \(train\); give the key"):
        find_manifest(tmp_path, "data")
    assert differences(manifest.identity, other.identity) == [
        'precision: "fp32" -> "bf16"',
    ]
    make_store(place / "cccccc", images=50, finish=False)
    with pytest.raises(StoreError, match="no complete store"):
        find_manifest(tmp_path, "cccccc")

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from hjepa_eval.errors import StoreError
from hjepa_eval.features.cache import find_manifest, find_stores, list_stores, memo_dir, remove_store, stored_bytes
from hjepa_eval.features.fingerprint import differences, fingerprint_files
from hjepa_eval.features.garbage import Garbage, collect_garbage, last_used
from hjepa_eval.features.store import FeatureStore

DAY = 86400.0
Fill = Callable[..., Path]


@pytest.fixture
def fill(make_store, tmp_path: Path) -> Fill:
    """Fill a store of 100 images in the cache, last used some days ago."""

    def fill(name: str, *, days: float = 0, finish: bool = True, **identity: object) -> Path:
        folder = tmp_path / "features" / "data" / "train" / name
        make_store(folder, images=100, finish=finish, name=name, **identity)
        if finish:
            os.utime(folder / "manifest.json", (time.time() - days * DAY,) * 2)
        return folder

    return fill


@pytest.fixture(params=["claim", "lock of an earlier version"])
def hold(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Be the process that fills a store."""
    held = []

    def hold(folder: Path) -> Path:
        beside = Path(f"{folder}.lock")
        path = tmp_path / "claims" / f"{folder.name}-part.lock" if request.param == "claim" else beside
        path.parent.mkdir(exist_ok=True)
        held.append(FileLock(path))
        held[-1].acquire()
        return path

    yield hold
    for lock in held:
        lock.release()


def collect(cache: Path, **options: object) -> dict[str, str]:
    return {str(item.path.relative_to(cache)): item.reason for item in collect_garbage(cache, **options)}


def names(cache: Path) -> list[str]:
    return [store.folder.name for store in list_stores(cache)]


def test_gc__removes_unfinished_and_unreadable_stores_and_keeps_the_rest(fill: Fill, tmp_path: Path) -> None:
    fill("aaaaaa")
    unfinished = fill("bbbbbb", finish=False)
    (fill("cccccc") / "manifest.json").write_text("{}")
    size = stored_bytes(unfinished)
    assert size == sum(file.stat().st_size for file in unfinished.iterdir()) > 0
    expected = {
        "features/data/train/bbbbbb": "unfinished",
        "features/data/train/cccccc": "its manifest cannot be read",
    }
    assert collect(tmp_path, dry_run=True) == expected
    assert names(tmp_path) == ["aaaaaa", "bbbbbb", "cccccc"]
    removed = list(collect_garbage(tmp_path))
    assert removed[0] == Garbage(unfinished, size, "unfinished")
    assert names(tmp_path) == ["aaaaaa"]
    assert collect(tmp_path) == {}


def test_gc__store_that_is_being_filled_stays(fill: Fill, hold, tmp_path: Path) -> None:
    filling = fill("bbbbbb", finish=False)
    growing = fill("cccccc", days=90)
    temporary = filling / ".0123.tmp"
    temporary.write_bytes(b"half")
    locks = [hold(filling), hold(growing)]
    assert collect(tmp_path, unused_seconds=DAY, max_bytes=0) == {}
    assert temporary.exists()
    assert all(lock.exists() for lock in locks)
    with pytest.raises(StoreError, match="bbbbbb is being filled by another hjepa; wait until it ends"):
        remove_store(find_stores(tmp_path, "bbbbbb")[0])
    assert names(tmp_path) == ["bbbbbb", "cccccc"]


def test_gc__store_that_is_finished_meanwhile_stays(fill: Fill, tmp_path: Path) -> None:
    fill("aaaaaa", finish=False)
    fill("bbbbbb", finish=False)
    removing = collect_garbage(tmp_path)
    assert next(removing).path.name == "aaaaaa"
    fill("bbbbbb")
    assert list(removing) == []
    assert names(tmp_path) == ["bbbbbb"]


def test_gc__removes_what_was_not_used_for_long(fill: Fill, tmp_path: Path) -> None:
    fill("aaaaaa", days=1)
    fill("bbbbbb", days=31)
    old = fill("cccccc", days=45)
    FeatureStore(old)
    os.utime(fill("dddddd", days=45) / "00000000-00000100.safetensors")  # Only opening a store counts.
    assert time.time() - last_used(old) < DAY / 2
    assert collect(tmp_path, unused_seconds=30 * DAY) == {
        "features/data/train/dddddd": "not used for 45 days",
        "features/data/train/bbbbbb": "not used for 31 days",
    }
    assert names(tmp_path) == ["aaaaaa", "cccccc"]


def test_gc__least_recently_used_go_until_the_rest_fits(fill: Fill, tmp_path: Path) -> None:
    sizes = [stored_bytes(fill(name, days=days)) for name, days in (("aaaaaa", 1), ("bbbbbb", 3), ("cccccc", 2))]
    assert collect(tmp_path, max_bytes=sum(sizes)) == {}
    assert collect(tmp_path, max_bytes=sum(sizes) - 1, dry_run=True) == {
        "features/data/train/bbbbbb": "least recently used"
    }
    assert list(collect(tmp_path, max_bytes=sizes[0])) == ["features/data/train/bbbbbb", "features/data/train/cccccc"]
    assert names(tmp_path) == ["aaaaaa"]
    assert list(collect(tmp_path, max_bytes=0)) == ["features/data/train/aaaaaa"]
    assert list((tmp_path / "features").iterdir()) == [], "no empty folders stay"


def test_gc__removes_what_killed_processes_left(fill: Fill, tmp_path: Path) -> None:
    folder = fill("aaaaaa")
    (folder / ".0123.tmp").write_bytes(b"half")
    Path(f"{folder}.lock").touch()
    folder.with_name("gone.lock").touch()
    claims = tmp_path / "claims"
    claims.mkdir()
    for name in ("aaaaaa-00000000.lock", "aaaaaa-00000000.owner", "eeeeee-finish.lock"):
        (claims / name).touch()
    expected = {
        "features/data/train/aaaaaa/.0123.tmp": "temporary file",
        "features/data/train/gone.lock": "lock without a store",
        "claims/aaaaaa-00000000.lock": "claim that no process holds",
        "claims/aaaaaa-00000000.owner": "claim that no process holds",
        "claims/eeeeee-finish.lock": "claim that no process holds",
    }
    assert collect(tmp_path, dry_run=True) == expected
    assert collect(tmp_path) == expected
    assert list(claims.iterdir()) == []
    assert FeatureStore(folder).labels().shape == (100,)


def test_gc__forgets_fingerprints_of_datasets_that_are_gone(tmp_path: Path, cifar10_sample: Path) -> None:
    gone = Path(shutil.copytree(cifar10_sample / "test" / "cat", tmp_path / "photos"))
    memo = memo_dir(tmp_path)
    for root in (cifar10_sample / "test" / "cat", gone):
        images = sorted(root.iterdir())
        fingerprint_files(root, [path.name for path in images], stats=[path.stat() for path in images], memo=memo)
    (memo / ".old.tmp").touch()
    os.utime(memo / ".old.tmp", (time.time() - DAY,) * 2)
    (memo / ".new.tmp").touch()
    (memo / "older-version.json").write_text('{"signature": "x", "fingerprint": "y"}')
    assert list(collect(tmp_path)) == ["fingerprints/.old.tmp"]
    shutil.rmtree(gone)
    assert list(collect(tmp_path).values()) == [f"fingerprint of {gone.resolve()}, which is gone"]
    assert len(list(memo.iterdir())) == 3


def test_gc__empty_cache_is_fine(tmp_path: Path) -> None:
    assert collect(tmp_path / "absent", unused_seconds=0, max_bytes=0) == {}


def test_find_manifest__one_store_by_key_dataset_or_folder(fill: Fill, tmp_path: Path) -> None:
    folder = fill("aaaaaa", precision="fp32")
    manifest = FeatureStore(folder).manifest
    for wanted in (manifest.key[:8] if manifest.key.startswith("aaaaaa") else "aaaaaa", "data", str(folder)):
        assert find_manifest(tmp_path, wanted) == manifest
    other = FeatureStore(fill("bbbbbb", precision="bf16")).manifest
    with pytest.raises(StoreError, match=r"'data' fits 2 stores: aaaaaa \(train\), bbbbbb \(train\); give the key"):
        find_manifest(tmp_path, "data")
    assert differences(manifest.identity, other.identity) == [
        'name: "aaaaaa" -> "bbbbbb"',
        'precision: "fp32" -> "bf16"',
    ]
    fill("cccccc", finish=False)
    with pytest.raises(StoreError, match="no complete store"):
        find_manifest(tmp_path, "cccccc")

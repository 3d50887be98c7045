from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from hjepa_eval.errors import StoreError
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.cache import encoders_dir, find_stores, list_stores, memo_dir, remove_store, stored_bytes
from hjepa_eval.features.garbage import Garbage, collect_garbage, last_used
from hjepa_eval.features.memo import file_states, fingerprint_files, recall, remember
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
    with pytest.raises(StoreError, match="bbbbbb is in use by another hjepa; wait until it ends"):
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
        states = file_states([path.stat() for path in images])
        fingerprint_files(root, [path.name for path in images], states=states, memo=memo)
    (memo / ".old.tmp").touch()
    os.utime(memo / ".old.tmp", (time.time() - DAY,) * 2)
    (memo / ".new.tmp").touch()
    (memo / "older-version.json").write_text('{"signature": "x", "fingerprint": "y"}')
    assert list(collect(tmp_path)) == ["fingerprints/.old.tmp"]
    shutil.rmtree(gone)
    assert list(collect(tmp_path).values()) == [f"remembered of {gone.resolve()}, which is gone"]
    assert len(list(memo.iterdir())) == 3


def test_gc__forgets_answers_about_files_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "there.tar").touch()
    for place in (memo_dir(tmp_path), encoders_dir(tmp_path)):
        for signature, root in (("a" * 64, "there.tar"), ("b" * 64, "gone.tar"), ("c" * 64, "there.tar/in a file")):
            remember(place, signature, {"x": 1}, root=tmp_path / root)
        remember(place, "d" * 64, {"x": 1})
    expected = {f"{place}/{letter * 32}.json" for place in ("fingerprints", "encoders") for letter in "bc"}
    assert set(collect(tmp_path)) == expected
    for place in (memo_dir(tmp_path), encoders_dir(tmp_path)):
        found = [recall(place, letter * 64) for letter in "abcd"]
        assert found == [{"x": 1}, None, None, {"x": 1}]


def test_gc__locks_and_temporary_files_of_memos_and_encoders_go_unless_someone_holds_them(tmp_path: Path) -> None:
    for place in (memo_dir(tmp_path), encoders_dir(tmp_path)):
        place.mkdir()
        for name in ("old.json.lock", "held.json.lock", ".old.tmp", ".new.tmp", "kept.safetensors"):
            (place / name).touch()
        os.utime(place / ".old.tmp", (time.time() - DAY,) * 2)
    expected = {f"{place}/{name}" for place in ("fingerprints", "encoders") for name in ("old.json.lock", ".old.tmp")}
    with FileLock(memo_dir(tmp_path) / "held.json.lock"), FileLock(encoders_dir(tmp_path) / "held.json.lock"):
        assert set(collect(tmp_path, dry_run=True)) == set(collect(tmp_path)) == expected
    for place in (memo_dir(tmp_path), encoders_dir(tmp_path)):
        assert sorted(path.name for path in place.iterdir()) == [".new.tmp", "held.json.lock", "kept.safetensors"]


def test_gc__lock_that_is_taken_meanwhile_stays(tmp_path: Path) -> None:
    encoders_dir(tmp_path).mkdir()
    locks = [encoders_dir(tmp_path) / name for name in ("a.lock", "b.lock")]
    for lock in locks:
        lock.touch()
    removing = collect_garbage(tmp_path)
    first = next(removing).path
    (other,) = set(locks) - {first}
    # Another process: one process may hold a lock file once only.
    with hold_elsewhere(other):
        assert list(removing) == []
    assert (first.exists(), other.exists()) == (False, True)


@contextmanager
def hold_elsewhere(lock: Path) -> Iterator[None]:
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


def test_gc__files_that_vanish_meanwhile_are_no_error(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill("aaaaaa")
    places = [folder, memo_dir(tmp_path), encoders_dir(tmp_path)]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / ".0123.tmp").touch()
        os.utime(place / ".0123.tmp", (0, 0))
    original = Path.stat

    def vanishing(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".tmp":
            path.unlink(missing_ok=True)
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    assert collect(tmp_path) == {}
    assert not any(list(place.glob(".*.tmp")) for place in places)


def test_gc__shards_within_those_of_a_finished_store_go_and_longer_ones_stay(
    fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", 64)
    folder = fill("aaaaaa")
    spans = ((0, 40), (64, 100), (64, 90), (64, 128), (128, 192), (0, 100))
    for start, stop in spans:
        (folder / f"{start:08d}-{stop:08d}.safetensors").touch()
    (folder / "my-notes.safetensors").touch()
    expected = {
        f"features/data/train/aaaaaa/{name}.safetensors": "shard that a longer one took the place of"
        for name in ("00000000-00000040", "00000064-00000090")
    }
    assert collect(tmp_path, dry_run=True) == expected
    assert collect(tmp_path) == expected
    assert len(list(folder.glob("*.safetensors"))) == 6


def test_gc__empty_cache_is_fine(tmp_path: Path) -> None:
    assert collect(tmp_path / "absent", unused_seconds=0, max_bytes=0) == {}

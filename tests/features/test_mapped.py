from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features import mapped, read_features, read_index, read_labels
from hjepa_eval.features.shards import read_rows
from hjepa_eval.features.store import FeatureStore

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def maps_of(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


def refuse_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_copy", lambda pieces: pytest.fail("copied"))
    monkeypatch.setattr(mapped, "_read", lambda piece, start, out: pytest.fail("copied"))


@linux
@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("images", [1, 4096, 8192, 10_000])
def test_read_features__are_those_of_the_store_without_a_copy(
    make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, storage: str
) -> None:
    store = make_store(tmp_path / "s", images=images, storage=storage)
    refuse_copies(monkeypatch)
    for level in (0, 1):
        for source in (store, store.folder, str(store.folder)):
            found = read_features(source, level)
            assert type(found) is np.ndarray
            assert (found.dtype, found.shape) == (np.dtype(storage), (images, (6, 64)[level]))
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found.astype(np.float32), store.features(level))
    np.testing.assert_array_equal(read_labels(store.folder), np.arange(images) % 2)
    np.testing.assert_array_equal(read_index(store.folder), np.arange(images))
    with pytest.raises(UnknownNameError, match="known: 0, 1"):
        read_features(store, 2)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@linux
def test_read_features__only_pages_that_are_looked_at_come_into_memory(make_store, tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s", images=60_000, widths=(1024,)).folder  # 15 shards, 246 MB
    rows = np.arange(0, 60_000, 6000)
    before = resident_bytes()
    features = read_features(folder, 0)
    few = features[rows]
    assert features.nbytes == 60_000 * 1024 * 4
    # The kernel brings a few pages around each row that is looked at.
    assert resident_bytes() - before < 20_000_000
    np.testing.assert_array_equal(few, FeatureStore(folder, verify=False).stream(0).rows(rows))


@linux
def test_read_features__array_outlives_store_and_files_and_unmaps_itself(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    expected = store.features(1)
    features = read_features(store, 1)
    tensor = read_features(store, 1, as_torch=True)
    assert len(maps_of(store.folder)) == 6, "three shards twice"
    tail = features[-3:]
    del store, features
    shutil.rmtree(tmp_path / "s")
    gc.collect()
    np.testing.assert_array_equal(tail, expected[-3:])
    np.testing.assert_array_equal(tensor.numpy(), expected)
    del tail
    gc.collect()
    assert len(maps_of(tmp_path / "s")) == 3
    del tensor
    gc.collect()
    assert maps_of(tmp_path / "s") == []


@pytest.mark.parametrize("images", [100, 10_000])
def test_read_features__refuse_to_be_written_and_a_tensor_changes_only_itself(
    make_store, tmp_path: Path, images: int
) -> None:
    store = make_store(tmp_path / "s", images=images)
    features = read_features(store, 1)
    for change in (lambda: features.__setitem__(0, 1), lambda: setattr(features.flags, "writeable", True)):
        with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
            change()
    tensor = read_features(store, 1, as_torch=True)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (images, 64))
    tensor += 1
    np.testing.assert_allclose(tensor.numpy(), features + 1, rtol=1e-6)
    np.testing.assert_array_equal(read_features(store, 1), store.features(1))
    assert FeatureStore(store.folder).manifest == store.manifest, "every byte is as before"


@linux
def test_read_features__tensor_is_mapped_memory(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    address = read_features(store, 1, as_torch=True)
    ranges = [re.match(r"(\w+)-(\w+)", line) for line in maps_of(store.folder)]
    spans = sorted((int(found[1], 16), int(found[2], 16)) for found in ranges if found)
    assert spans[0][0] == address.data_ptr()
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert spans[-1][1] >= address.data_ptr() + address.nbytes


@pytest.mark.parametrize("as_torch", [False, True])
@pytest.mark.parametrize("skipped", [(3,), (4095, 9000), (4096,), tuple(range(4096, 8192)), tuple(range(10_000))])
def test_read_features__shards_behind_a_skipped_image_are_right_too(
    make_store, tmp_path: Path, skipped: tuple[int, ...], as_torch: bool
) -> None:
    store = make_store(tmp_path / "s", skipped=skipped)
    for level in (0, 1):
        found = read_features(store, level, as_torch=as_torch)
        assert tuple(found.shape) == (10_000 - len(skipped), (6, 64)[level])
        np.testing.assert_array_equal(np.asarray(found), store.features(level))
    np.testing.assert_array_equal(read_index(store), np.setdiff1d(np.arange(10_000), skipped))


@linux
def test_read_features__shards_before_a_skipped_image_are_still_mapped(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", skipped=(5000,))
    features = read_features(store, 1)
    # The second shard begins at a page and is short, so the third is copied.
    assert [Path(line.split()[-1]).name[:8] for line in maps_of(store.folder)] == ["00000000", "00004096"]
    assert len(features) == 9999


@pytest.mark.parametrize("as_torch", [False, True])
@pytest.mark.parametrize("shard_size", [10, 100_000])
def test_read_features__store_of_an_earlier_version_is_read(
    make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_size: int, as_torch: bool
) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", shard_size)
    store = make_store(tmp_path / "s", images=57)
    expected = store.features(1)
    for shard in store.manifest.shards:
        path = store.folder / shard.file
        tensors = {name: read_rows(path, name, rows=shard.rows) for name in ("level0", "level1", "labels", "index")}
        save_file(tensors, path, metadata={"hjepa": "x" * 3})
    np.testing.assert_array_equal(np.asarray(read_features(store, 1, as_torch=as_torch)), expected)


@pytest.mark.parametrize("reason", ["system", "mmap"])
def test_read_features__are_copied_where_they_cannot_be_mapped(
    make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    store = make_store(tmp_path / "s", storage="float16")

    def fail(*_: object) -> None:
        raise OSError("no such device")

    if reason == "system":
        monkeypatch.setattr(mapped, "_CAN_JOIN", False)
    else:
        monkeypatch.setattr(mapped, "_map", fail)
    found = read_features(store, 1)
    assert (found.dtype, found.flags.writeable) == (np.float16, False)
    np.testing.assert_array_equal(found.astype(np.float32), store.features(1))


def test_read_features__shard_that_lies_about_itself_is_named(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s")
    shard = store.folder / store.manifest.shards[1].file
    whole = shard.read_bytes()
    damaged = {
        "ends too early": whole[:-5],
        "its header is damaged": b"\xff" * 8 + whole[8:],
        "shape": whole.replace(b'"shape":[4096,64]', b'"shape":[4095,64]'),
        "level1 is F64": whole.replace(b"F32", b"F64"),
    }
    for says, content in damaged.items():
        shard.write_bytes(content)
        with pytest.raises(StoreError, match=rf"{shard.name} cannot be read: .*{says}.*run hjepa extract again"):
            read_features(store, 1)
    with pytest.raises(StoreError, match="no complete store"):
        read_features(tmp_path, 0)


def test_features__are_imported_without_torch() -> None:
    code = "import sys, hjepa_eval.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0

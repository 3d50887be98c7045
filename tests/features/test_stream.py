"""A stored level read block by block: the same numbers as in memory, and letters about what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter
from hjepa_eval.probes.search.search import nearest

ROWS, WIDTH = 57, 6


def make_store(folder: Path, monkeypatch: pytest.MonkeyPatch, *, shard_size: int = 10) -> FeatureStore:
    """57 images of which those at places 12 and 13 were skipped; level 1 is what the tests read."""
    monkeypatch.setattr(ranges, "SHARD_SIZE", shard_size)
    levels = (StoredLevel(0, "fine", 2, (2, 2), 4), StoredLevel(1, "coarse", WIDTH, (1, 1), 1))
    manifest = Manifest({"key": shard_size}, "e", "d", "train", "mean", levels, ("a", "b"), ROWS, ROWS)
    features = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    writer = StoreWriter(folder, manifest)
    for part in writer.missing:
        index = np.array([i for i in range(part.start, part.stop) if i not in (12, 13)], np.int64)
        tensors = {"level0": features[index, :2], "level1": features[index], "labels": index % 2, "index": index}
        writer.write(part, tensors, tuple(f"{i} is broken" for i in (12, 13) if part.start <= i < part.stop))
    return writer.finish()


@pytest.mark.parametrize("shard_size", [1, 7, 10, 100])
@pytest.mark.parametrize("rows", [1, 4, 20, 1000])
def test_stream__blocks_are_the_features_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_size: int, rows: int
) -> None:
    store = make_store(tmp_path, monkeypatch, shard_size=shard_size)
    stream = store.stream(1)
    blocks = list(stream.blocks(rows))
    assert stream.shape == (55, WIDTH)
    assert [len(block) for block in blocks] == [min(rows, 55 - start) for start in range(0, 55, rows)]
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), store.features(1))


def test_stream__rows_come_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, monkeypatch)
    index = np.array([54, 0, 3, 3, 11, 12, 10, 9, 54, 20])
    np.testing.assert_array_equal(store.stream(1).rows(index), store.features(1)[index])
    assert store.stream(1).rows(np.empty(0, np.int64)).shape == (0, WIDTH)
    for outside in (-1, 55):
        with pytest.raises(IndexError):
            store.stream(1).rows(np.array([3, outside]))


@pytest.mark.parametrize("limit", [0, 1, 13, 30, 57])
def test_stream__a_limit_counts_places_not_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    store = make_store(tmp_path, monkeypatch)
    expected = store.features(1, limit=limit)
    stream = store.stream(1, limit=limit)
    assert stream.shape == expected.shape
    np.testing.assert_array_equal(np.concatenate([np.empty((0, WIDTH)), *stream.blocks(8)]), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("shard_size", [3, 10])
def test_stream__has_the_neighbours_of_the_features_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, shard_size: int
) -> None:
    store = make_store(tmp_path, monkeypatch, shard_size=shard_size)
    for queries in (store.features(1)[:9], None):
        streamed = nearest(store.stream(1), queries, k=5, metric=metric, block_rows=8)
        memory = nearest(store.features(1), queries, k=5, metric=metric)
        assert (streamed.index == memory.index).all()
        assert np.allclose(streamed.similarity, memory.similarity, rtol=0, atol=1e-5)


def test_stream__float16_shards_become_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, monkeypatch)
    halves = store.features(1)[:10].astype(np.float16)
    save_file({"level1": halves}, tmp_path / store.manifest.shards[0].file)
    found = store.stream(1).rows(np.arange(10))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halves.astype(np.float32))


def test_stream__says_which_shard_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, monkeypatch)
    stream = store.stream(1)
    shard = tmp_path / store.manifest.shards[1].file
    whole = shard.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = {
        "ends too early": whole[:-1],
        "its header is damaged": b"\xff" * 8 + whole[8:],
        "Expecting value": whole[:8] + b"x" * (header - 8) + whole[header:],
        "level1": whole[:8] + whole[8:header].replace(b"level1", b"levelX") + whole[header:],
        "level1 is F64": whole[:8] + whole[8:header].replace(b"F32", b"F64") + whole[header:],
        r"shape \[8, 7\]": whole[:8] + whole[8:header].replace(b"[8,6]", b"[8,7]") + whole[header:],
    }
    for says, content in damaged.items():
        shard.write_bytes(content)
        with pytest.raises(StoreError, match=rf"{shard.name} cannot be read: .*{says}.*run hjepa extract again"):
            list(stream.blocks(100))
    shard.unlink()
    with pytest.raises(StoreError, match=rf"{shard.name} cannot be read: .*No such file"):
        stream.rows(np.array([12]))
    assert len(stream.rows(np.array([0, 54]))) == 2  # the other shards are whole


def test_stream__unknown_levels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="known: 0, 1"):
        make_store(tmp_path, monkeypatch).stream(2)

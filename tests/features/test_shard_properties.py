"""What holds of shards for any numbers of images, shard sizes, missing images and order of writing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hjepa_eval.features import manifest as ranges
from hjepa_eval.features import read_features, read_index, read_labels
from hjepa_eval.features.manifest import Manifest, StoredLevel, shard_ranges, shard_span
from hjepa_eval.features.store import FeatureStore, verify_store
from hjepa_eval.features.writer import StoreWriter, pack_shard, read_about

counts = st.integers(1, 100)


@given(images=st.integers(0, 9000), rows=st.integers(10, 5000))
@example(images=3, rows=1)
@example(images=4096, rows=4096)
def test_shard_ranges__are_a_partition_in_order_and_only_the_last_is_short(images: int, rows: int) -> None:
    parts = shard_ranges(images, rows)
    ends = [0, *(part.stop for part in parts)]
    assert [part.start for part in parts] == ends[:-1]
    assert ends[-1] == images
    assert all(part.stop - part.start == rows for part in parts[:-1])
    assert all(0 < part.stop - part.start <= rows for part in parts)
    assert [shard_span(part.file) for part in parts] == [(part.start, part.stop) for part in parts]
    assert sorted(part.file for part in parts) == [part.file for part in parts]


def written(folder: Path, index: np.ndarray, images: int, *, order: st.DataObject, storage: str) -> FeatureStore:
    """Write the images of `index` in shards, in any order, some twice and by a second writer; return the store."""
    levels = tuple(StoredLevel(number, f"l{number}", width, (1, 1), 1) for number, width in enumerate((3, 1)))
    about = Manifest({"storage": storage}, "e", "d", "train", "mean", levels, ("a", "b"), images, images)
    parts = StoreWriter(folder, about).missing
    for part in order.draw(st.permutations([*parts, *parts[:1]])):
        kept = index[(index >= part.start) & (index < part.stop)]
        tensors = {f"level{level.index}": values(kept, level.width, storage) for level in levels}
        reasons = tuple("torn" for _ in range(part.stop - part.start - len(kept)))
        StoreWriter(folder, about).write(part, {**tensors, "labels": kept % 2, "index": kept}, reasons)
    return StoreWriter(folder, about).finish()


def values(index: np.ndarray, width: int, storage: str) -> np.ndarray:
    """Return features that name their image and column."""
    return (index[:, None] * 4 + np.arange(width)).astype(storage)


@settings(max_examples=40)
@given(data=st.data(), images=counts, size=st.integers(1, 40), storage=st.sampled_from(["float32", "float16"]))
def test_shards__in_whatever_order_they_come_they_read_as_one_array(
    data: st.DataObject, images: int, size: int, storage: str
) -> None:
    index = np.array(sorted(data.draw(st.sets(st.integers(0, images - 1)))), np.int64)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(ranges, "SHARD_SIZE", size):
        store = written(Path(folder), index, images, order=data, storage=storage)
        assert len(store.manifest.shards) == -(-images // size)
        assert len(store.manifest.skipped) == images - len(index)
        assert verify_store(store.folder) == []
        np.testing.assert_array_equal(read_index(store), index)
        np.testing.assert_array_equal(read_labels(store), index % 2)
        for level, width in enumerate((3, 1)):
            expected = values(index, width, storage)
            np.testing.assert_array_equal(read_features(store, level), expected)
            np.testing.assert_array_equal(store.features(level), expected.astype(np.float32))
            wanted = np.array(
                data.draw(st.lists(st.integers(0, len(index) - 1), max_size=9)) if len(index) else [], int
            )
            np.testing.assert_array_equal(store.stream(level).rows(wanted), expected[wanted].astype(np.float32))


@given(data=st.data(), rows=st.integers(0, 5), width=st.integers(1, 6))
def test_pack_shard__any_changed_byte_is_noticed(data: st.DataObject, rows: int, width: int) -> None:
    index = np.arange(rows)
    content = pack_shard({"index": index, "level0": values(index, width, "float32")}, {"images": [0, rows]})
    assert read_about(content) == {"images": [0, rows]}
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert read_about(bytes(damaged)) is None
    assert read_about(content[: data.draw(st.integers(0, len(content) - 1))]) is None

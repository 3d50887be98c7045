from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.errors import StoreError
from hjepa_eval.evaluation.rows import JoinedFeatures
from hjepa_eval.features import read_features
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter


def write(folder: Path, features: np.ndarray, storage: str) -> FeatureStore:
    count, width = features.shape
    levels = (StoredLevel(0, "only", width, (1, 1), 1),)
    manifest = Manifest({"storage": storage}, "e", "d", "train", "mean", levels, ("a",), count, count)
    writer = StoreWriter(folder, manifest)
    places = np.arange(count)
    writer.write(writer.missing[0], {"level0": features, "labels": places * 0, "index": places})
    return writer.finish()


def test_float16__every_reader_gives_float32_and_the_map_what_is_stored(tmp_path: Path) -> None:
    # 0.1 in float16 is 1638 / 2^14 = 0.0999755859375; 65504 is the largest value.
    features = np.array([[0.1, 65504.0], [-65504.0, 2.0**-24]], np.float16)
    expected = np.array([[0.0999755859375, 65504.0], [-65504.0, 2.0**-24]], np.float32)
    store = write(tmp_path / "s", features, "float16")
    stream = store.stream(0)
    for found in (
        store.features(0),
        store.features(0, limit=2),
        next(stream.blocks(5)),
        stream.rows(np.array([0, 1])),
        JoinedFeatures([stream], [1.0]).rows(np.array([0, 1])),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert read_features(store, 0).dtype == np.float16
    np.testing.assert_array_equal(read_features(store, 0), features)
    assert store.labels().dtype == np.int64


def test_float16__takes_half_the_room(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((4096, 64))
    half = write(tmp_path / "half", features.astype(np.float16), "float16").manifest
    whole = write(tmp_path / "whole", features.astype(np.float32), "float32").manifest
    assert whole.bytes - half.bytes == 4096 * 64 * 2
    assert half.bytes == sum(file.stat().st_size for file in (tmp_path / "half").glob("*.safetensors"))
    assert half.key != whole.key


@pytest.mark.parametrize("value", [65520.0, -1e9])
def test_float16__value_beyond_its_range_is_refused(tmp_path: Path, value: float) -> None:
    features = np.ones((3, 4), np.float32)
    features[1, 2] = value
    with np.errstate(over="ignore"):
        halves = features.astype(np.float16)
    with pytest.raises(StoreError, match=r"level 0 of images 0 to 3 has values beyond 65504.*--storage fp32"):
        write(tmp_path / "s", halves, "float16")
    assert list((tmp_path / "s").iterdir()) == []
    assert write(tmp_path / "s", features, "float32").features(0)[1, 2] == np.float32(value)


def test_writer__another_dtype_than_the_manifest_says_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="level0 is float32, the manifest says float16"):
        write(tmp_path / "s", np.ones((3, 4), np.float32), "float16")

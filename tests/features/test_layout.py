from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load

from hjepa_eval.features import store as store_module
from hjepa_eval.features.layout import ALIGNMENT, pack_shard, read_about
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import shard_ranges, shard_rows


def tensors_of(rows: int, kind: str = "float32") -> dict[str, np.ndarray]:
    index = np.arange(rows, dtype=np.int64)
    return {
        "level10": np.full((rows, 5), 10, kind),
        "level2": np.full((rows, 7), 2, kind),
        "labels": index % 3,
        "index": index,
    }


def header_of(content: bytes) -> tuple[int, dict]:
    start = 8 + int.from_bytes(content[:8], "little")
    return start, json.loads(content[8:start])


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 1000, 4096])
def test_pack_shard__safetensors_reads_it_and_levels_begin_at_pages(rows: int, kind: str) -> None:
    tensors = tensors_of(rows, kind)
    content = pack_shard(tensors, {"key": "k"})
    found = load(content)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert {name for name in found if name not in tensors} <= {"padding.level2", "padding.level10"}
    start, header = header_of(content)
    assert start % ALIGNMENT == 0
    for name in ("level2", "level10"):
        assert header[name]["data_offsets"][0] % ALIGNMENT == 0


def test_pack_shard__full_shard_has_no_padding_but_the_header() -> None:
    content = pack_shard(tensors_of(4096), {"key": "k"})
    assert len(content) == ALIGNMENT + 4096 * (8 + 8 + 4 * 7 + 4 * 5)


def test_pack_shard__bytes_do_not_depend_on_the_order_or_the_strides() -> None:
    tensors = tensors_of(100)
    other = {name: np.asfortranarray(array) for name, array in reversed(tensors.items())}
    assert pack_shard(other, {"b": 1, "a": 2}) == pack_shard(tensors, {"a": 2, "b": 1})
    with pytest.raises(ValueError, match="float64"):
        pack_shard({"level0": np.zeros((2, 2))}, {})


def test_read_about__every_flipped_byte_behind_the_header_is_seen() -> None:
    content = pack_shard(tensors_of(20), {"key": "k", "skipped": ["x"]})
    about = read_about(content)
    assert about is not None
    assert (about["key"], about["skipped"]) == ("k", ["x"])
    start, header = header_of(content)
    padding = start + header["padding.level2"]["data_offsets"][0]
    for place in (start, padding, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert read_about(bytes(damaged)) is None
    assert read_about(content[:-1]) is None
    assert read_about(b"") is None


def wide(storage: str, *widths: int) -> Manifest:
    levels = tuple(StoredLevel(place, "l", width, (1, 1), 1) for place, width in enumerate(widths))
    return Manifest({"storage": storage}, "e", "d", "train", "tokens", levels, ("a",), 1, 1)


@pytest.mark.parametrize(
    ("storage", "widths", "rows"),
    [
        ("float32", (384, 384, 384), 4096),
        ("float32", (8192,), 4096),  # 4096 x 8192 x 4 bytes are 128 MiB.
        ("float32", (8192, 1), 2048),
        ("float16", (8192, 8192), 4096),
        ("float32", (196 * 384, 49 * 384), 256),  # 376,320 bytes a row: 96 MB, and 193 MB with 512.
        ("float32", (4096 * 768,), 64),  # never less
    ],
)
def test_shard_rows__halve_while_a_shard_is_beyond_128_mib(storage: str, widths: tuple[int, ...], rows: int) -> None:
    assert shard_rows(wide(storage, *widths)) == rows


def test_shard_ranges__cover_every_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(part.start, part.stop) for part in shard_ranges(150, 64)] == [(0, 64), (64, 128), (128, 150)]
    monkeypatch.setattr(store_module, "SHARD_SIZE", 10)
    assert shard_rows(wide("float32", 4096 * 768)) == 10

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load

from hjepa_eval.features.writer import ALIGNMENT, pack_shard, read_about


def tensors_of(rows: int, kind: str = "float32") -> dict[str, np.ndarray]:
    index = np.arange(rows, dtype=np.int64)
    return {
        "level10": np.full((rows, 5), 10, kind),
        "level2": np.full((rows, 7), 2, kind),
        "labels": index % 3,
        "index": index,
    }


def header_of(content: bytes | bytearray) -> tuple[int, dict]:
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


def test_read_about__every_flipped_byte_of_the_header_is_seen() -> None:
    content = bytearray(pack_shard(tensors_of(20), {"key": "k", "skipped": ["x"]}))
    start, _ = header_of(content)
    assert read_about(bytes(content)) == {"key": "k", "skipped": ["x"]}
    unseen = []
    for place in range(start):
        content[place] ^= 1 << place % 8
        if read_about(bytes(content)) is not None:
            unseen.append(place)
        content[place] ^= 1 << place % 8
    assert (start, unseen) == (ALIGNMENT, [])


def test_read_about__every_flipped_byte_behind_the_header_is_seen() -> None:
    content = pack_shard(tensors_of(20), {"key": "k", "skipped": ["x"]})
    start, header = header_of(content)
    padding = start + header["padding.level2"]["data_offsets"][0]
    for place in (start, padding, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert read_about(bytes(damaged)) is None
    assert read_about(content[:-1]) is None
    assert read_about(content + b"\0") is None
    assert read_about(b"") is None


def seal(content: bytes) -> bytes:
    """Return a forged shard with a checksum that fits: 64 characters behind 8 and `{"__metadata__":{"checksum":"`."""
    blank = content[:37] + b"0" * 64 + content[101:]
    return blank[:37] + hashlib.sha256(blank).hexdigest().encode() + blank[101:]


def test_read_about__sealed_shard_is_taken_and_is_golden() -> None:
    content = pack_shard(tensors_of(20), {"key": "k"})
    assert seal(content) == content
    header = json.loads(content[8 : header_of(content)[0]])
    assert header["__metadata__"]["checksum"] == content[37:101].decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"hjepa":"{', b'"hjepa":"['),
        (b'"hjepa":"{', b'"hjepb":"{'),
        (rb"{\"key\":\"k\"}", b"3              "),
        (rb"{\"key\":\"k\"}", b"[[[[[[[[[[[[[[["),
        (b"}}", b"}]"),
        (b"level2", b"\xff\xfe\xfd\xfc\xfb\xfa"),
    ],
)
def test_read_about__sealed_nonsense_is_refused_without_a_traceback(old: bytes, new: bytes) -> None:
    content = pack_shard(tensors_of(20), {"key": "k"})
    assert old in content
    assert read_about(seal(content.replace(old, new, 1))) is None

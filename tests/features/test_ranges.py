from __future__ import annotations

import pytest

from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.manifest import Manifest, Range, StoredLevel, shard_file, shard_ranges, shard_rows, shard_span


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
    monkeypatch.setattr(ranges, "SHARD_SIZE", 10)
    assert shard_rows(wide("float32", 4096 * 768)) == 10


@pytest.mark.parametrize("span", [(0, 4096), (99_999_999, 100_000_000), (10**9, 10**9 + 1)])
def test_shard_span__reads_what_shard_file_wrote(span: tuple[int, int]) -> None:
    assert shard_span(shard_file(*span)) == shard_span(Range(*span).file) == span


@pytest.mark.parametrize("name", ["a-b.safetensors", "1-2.safetensors", "00000000-00000010.safetensors.tmp", "x" * 300])
def test_shard_span__foreign_names_are_no_shards(name: str) -> None:
    assert shard_span(name) is None

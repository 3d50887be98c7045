"""Patterns of shard names: which files they stand for, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from hjepa_eval.datasets.shards.places import find_shards, shards_name
from hjepa_eval.errors import DataError


def test_find_shards__missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "0.tar").touch()
    with pytest.raises(DataError, match=r"2 of the 3 shards of .* are missing: .*1\.tar, .*2\.tar; fetch them"):
        find_shards(f"{tmp_path}/{{0..2}}.tar", split="train")
    with pytest.raises(DataError, match=r"nothing matches .*none-test-\*\.tar or .*none-val-\*\.tar or"):
        find_shards(f"{tmp_path}/none-{{split}}-*.tar", split="test")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("a/imagenet-{split}-{0..9}.tar", "imagenet"), ("/x/photos/{split}/*.tar", "photos"), ("/x/one.tar", "one")],
)
def test_shards_name__is_the_fixed_part(pattern: str, name: str) -> None:
    assert shards_name(pattern) == name

"""Tar shards that stand twice: in one split, or, so that a probe would be tested on what it learned, in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hjepa_eval.datasets.tar_index import TarIndex
from hjepa_eval.errors import DataError, first_few


def check_copies(shards: Sequence[TarIndex]) -> None:
    """Check that no two shards of a split have the same content.

    Raises:
        DataError: two have.
    """
    first: dict[str, TarIndex] = {}
    for shard in shards:
        same = first.setdefault(shard.sha256, shard)
        if same is not shard:
            raise DataError(f"the shards {same.path} and {shard.path} are the same; remove one")


def check_paths(train: Sequence[Path], test: Sequence[Path]) -> None:
    """Check that no file is a shard of both splits, links resolved.

    Raises:
        DataError: one is.
    """
    places = {path.resolve() for path in train}
    shared = [str(path) for path in test if path.resolve() in places]
    if shared:
        raise DataError(
            f"{len(shared)} of the {len(test)} test shards are train shards too: {first_few(shared)}; "
            "name other test shards, with {split} in the pattern or ?test=PATTERN"
        )


def as_large(train: Sequence[Path], test: Sequence[Path]) -> list[Path]:
    """Return the train shards that are as large as some test shard: no other can be a copy of one."""
    sizes = {_size(path) for path in test}
    return [path for path in train if _size(path) in sizes]


def check_contents(train: Sequence[TarIndex], test: Sequence[TarIndex]) -> None:
    """Check that no test shard has the content of a train shard.

    Raises:
        DataError: one has.
    """
    contents = {shard.sha256: shard.path for shard in train}
    for shard in test:
        if shard.sha256 in contents:
            raise DataError(
                f"the test shard {shard.path} is a copy of the train shard {contents[shard.sha256]}; "
                "name other test shards"
            )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # Whoever reads it says why.

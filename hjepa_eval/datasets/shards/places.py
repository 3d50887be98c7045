"""Names of tar shards, by braces and globs, and whether the same shard stands twice, in one split or in both."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hjepa_eval.datasets.shards.tar_index import TarIndex
from hjepa_eval.errors import DataError, NoSplitError, first_few


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


SPLIT = "{split}"
_SPLIT_WORDS = {"train": ("train",), "test": ("test", "val", "validation")}


def find_shards(pattern: str, *, split: str, test_pattern: str | None = None) -> list[Path]:
    """Return the shards of a split, in the pattern's order, globs sorted.

    Args:
        pattern: with braces as in a shell, such as `photos-{split}-{000..099}.tar`, and globs.
        split: `train` or `test`; `{split}` becomes `train`, or the first there is of `test`, `val`, `validation`.
        test_pattern: of the test shards, when one pattern cannot say both.

    Raises:
        DataError: nothing matches, some of the shards are missing, or there is no pattern for test.
    """
    if not pattern:
        raise DataError("wds: names no shards; expected a pattern, such as 'wds:photos-{split}-{000..099}.tar'")
    if split == "test" and test_pattern is not None:
        pattern = test_pattern
    elif split == "test" and SPLIT not in pattern:
        raise NoSplitError(
            f"wds:{pattern} names train shards only; write {{split}} where train and test differ, "
            "or name the test shards with ?test=PATTERN, or test on a fifth of each class with ?test=0.2"
        )
    # Brace expansion takes a backslash for an escape; only POSIX names may have one.
    candidates = [pattern.replace(SPLIT, word) for word in _SPLIT_WORDS[split]] if SPLIT in pattern else [pattern]
    for candidate in candidates:
        present, missing = _expand(candidate)
        if present and missing:
            raise DataError(
                f"{len(missing)} of the {len(present) + len(missing)} shards of wds:{candidate} are missing: "
                f"{first_few(missing)}; fetch them, or change the pattern"
            )
        if present:
            return present
    raise DataError(f"no shards: nothing matches {' or '.join(candidates)} (seen from {Path.cwd()})")


def shards_name(pattern: str) -> str:
    """Return a short name for what the pattern stands for: how its file names begin, else their folder's name."""
    folder, _, file = pattern.rpartition("/")
    beginning = re.split(r"[{*?\[]", file.removesuffix(".tar"))[0].strip("-_. ")
    fixed = re.split(r"[{*?\[]", folder)[0]
    if fixed != folder:
        fixed = fixed.rpartition("/")[0]
    return beginning or Path(os.path.expanduser(fixed) or ".").resolve().name


def _expand(pattern: str) -> tuple[list[Path], list[str]]:
    """Return the files that a pattern names, and the names that are no files."""
    present: dict[Path, None] = {}
    missing = []
    for name in _braces(os.path.expanduser(pattern)):
        # A bracket may also be a part of the name.
        literal = os.path.lexists(name) or not glob.has_magic(name)
        found = [name] if literal else sorted(glob.glob(name, recursive=True))
        files = [each for each in found if os.path.lexists(each)]
        present.update(dict.fromkeys(Path(each) for each in files))
        if not files:
            missing.append(name)
    return list(present), missing


def _braces(pattern: str) -> list[str]:
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise DataError("tar shards need webdataset's extra; pip install 'hjepa[wds]'") from None
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"wds:{pattern}: {error}") from None

"""Profiles in files, with what must hold of one: written whole or not at all, refused when it was changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.errors import ResultError
from hjepa_eval.results.files import check_document, write_document
from hjepa_eval.results.profiles import PROFILE_SUFFIX, PROFILE_VERSION, LevelProfile, Profile

_CLOSE = 1e-6


def write_profile(profile: Profile, folder: Path) -> Path:
    """Write a profile into a folder, with the checksum of its content, and return its path.

    Raises:
        ResultError: the folder cannot be written, or a number is not finite; no part of a file is left.
    """
    return write_document(profile, folder / profile.file_name)


def read_profile(path: Path) -> Profile:
    """Return the profile in a file.

    Raises:
        ResultError: the file cannot be read, is no profile, is newer than this program, or was changed; the message
            names what does not hold.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ResultError(f"cannot read the profile {path}: {why}") from None
    version = content.get("profile_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ResultError(f"{path} is no profile of hjepa (it says no profile_version)")
    if version > PROFILE_VERSION:
        raise ResultError(
            f"{path} has profile version {version}, this program reads up to {PROFILE_VERSION}; update hjepa"
        )
    return check_document(content, path, Profile, profile_problems, again="run hjepa profile again")


def find_profiles(paths: Sequence[Path], *, damaged: Callable[[ResultError], None] | None = None) -> list[Profile]:
    """Return the profiles in folders, those of a folder by name, and in files that are profiles; there may be none.

    Args:
        paths: folders and files.
        damaged: told about each that cannot be read, which is then left out.

    Raises:
        ResultError: one cannot be read, and nobody is to be told.
    """
    files: list[Path] = []
    for path in paths:
        folder = path / "results" if (path / "results").is_dir() else path
        if path.is_dir():
            files += sorted(folder.glob(f"*{PROFILE_SUFFIX}"))
        elif path.name.endswith(PROFILE_SUFFIX):
            files.append(path)
    profiles = []
    for file in dict.fromkeys(files):
        try:
            profiles.append(read_profile(file))
        except ResultError as error:
            if damaged is None:
                raise
            damaged(error)
    return profiles


def profile_problems(profile: Profile) -> Iterator[str]:
    """Yield what cannot be so in a profile, each with its field and the value there."""
    numbers = [level.level for level in profile.levels]
    if not numbers or len(set(numbers)) < len(numbers):
        yield f"levels have the numbers {', '.join(map(str, numbers)) or 'of none'}"
    for number, level in enumerate(profile.levels):
        yield from (f"levels.{number}.{wrong}" for wrong in _level(level))
    single = {level.level for level in profile.levels if not level.fused}
    for number, test in enumerate(profile.factor_tests):
        yield from (f"factor_tests.{number}.{wrong}" for wrong in _ends(test, "difference"))
        if test.first == test.second or not {test.first, test.second} <= set(numbers):
            yield f"factor_tests.{number} is of levels {test.first} and {test.second}, not two of the profile's"
    for number, pair in enumerate(profile.level_map):
        if pair.first not in single or (not pair.other_model and (pair.second not in single)):
            yield f"level_map.{number} is of levels {pair.first} and {pair.second}, not two of the profile's"
        for name in ("mutual_knn", "within_classes"):
            yield from (f"level_map.{number}.{name}.{wrong}" for wrong in _shares(getattr(pair, name)))
        if pair.cka_chance is not None:
            yield from (f"level_map.{number}.cka_chance.{wrong}" for wrong in _shares(pair.cka_chance, least=-1.0))
        if not -1 - _CLOSE <= pair.cka <= 1 + _CLOSE or max(pair.forward, pair.backward) > 1 + _CLOSE:
            yield f"level_map.{number}: cka {pair.cka}, forward {pair.forward}, backward {pair.backward}, beyond 1"
    for number, joining in enumerate(profile.joining):
        yield from (f"joining.{number}.{wrong}" for wrong in _ends(joining, "difference"))
        if joining.level not in single:
            yield f"joining.{number}.level is {joining.level}, not one of the profile's"
    if profile.verdict is not None and len(profile.verdict.wrong) > profile.verdict.asked:
        yield f"verdict.wrong names {len(profile.verdict.wrong)} changes of {profile.verdict.asked}"


def _level(level: LevelProfile) -> Iterator[str]:
    if level.width < 1 or level.level < 0 or level.tokens < 0:
        yield f"level is {level.level}, width {level.width}, tokens {level.tokens}"
    for number, score in enumerate(level.factors):
        yield from (f"factors.{number}.{wrong}" for wrong in _ends(score, "value"))
        least = 0.0 if score.kind == "categorical" else float("-inf")
        if not least <= score.value <= 1 or not 0 <= score.chance <= 1:
            yield f"factors.{number}.value is {score.value} with chance {score.chance}, beyond what {score.kind} has"
        if min(score.train_images, score.test_images) < 1:
            yield f"factors.{number} has {score.train_images} train and {score.test_images} test images"
    for part in ("geometry", "neighbours"):
        for number, measure in enumerate(getattr(level, part)):
            if measure.num_samples < 1:
                yield f"{part}.{number}.num_samples is {measure.num_samples}, below 1"
            if measure.value is None and not measure.note:
                yield f"{part}.{number}.value is absent, and no note says why"
            if measure.value is not None and measure.low is not None and measure.high is not None:
                yield from (f"{part}.{number}.{wrong}" for wrong in _ends(measure, "value"))
    for number, change in enumerate(level.changes):
        for name in ("knn", "linear"):
            drop = getattr(change, name)
            yield from (f"changes.{number}.{name}.{wrong}" for wrong in _ends(drop, "drop"))
            if not 0 <= drop.value <= 1:
                yield f"changes.{number}.{name}.value is {drop.value}, outside [0, 1]"


def _ends(entry: Any, name: str) -> Iterator[str]:
    """Yield what does not fit of a value, its interval, and p-values where the entry has them."""
    value = getattr(entry, name)
    if not entry.low - _CLOSE <= value <= entry.high + _CLOSE:
        yield f"{name} is {value}, outside its interval from low {entry.low} to high {entry.high}"
    if not 0 <= getattr(entry, "p_value", 0.0) <= getattr(entry, "p_holm", 1.0) <= 1:
        yield f"p_value is {entry.p_value} and p_holm {entry.p_holm}, not 0 <= p_value <= p_holm <= 1"


def _shares(entry: Any, *, least: float = 0.0) -> Iterator[str]:
    for name in ("value", "null_mean", "threshold", "calibrated"):
        if not least - _CLOSE <= getattr(entry, name) <= 1 + _CLOSE:
            yield f"{name} is {getattr(entry, name)}, outside [{least:g}, 1]"
    if not 0 <= entry.p_value <= entry.p_holm <= 1:
        yield f"p_value is {entry.p_value} and p_holm {entry.p_holm}, not 0 <= p_value <= p_holm <= 1"

"""Profiles in files: they come back as they were, edited ones are refused, and readers of records pass them by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_profiles import profile_of
from made_records import record_of

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.results.files import find_records, read_record, write_record
from hjepa_eval.results.profile_files import find_profiles, read_profile, write_profile

EDITS: list[tuple[str, Any, str]] = [
    ("levels.0.factors.0.value", 2.0, "value is 2.0"),
    ("levels.0.factors.0.low", 0.9, "low 0.9"),
    ("levels.0.factors.2.value", float("nan"), "value is nan"),
    ("levels.0.factors.0.test_images", 0, "0 test images"),
    ("levels.0.geometry.0.value", None, None),  # A note says why: it may be absent.
    ("levels.0.geometry.1.value", None, "no note says why"),
    ("levels.0.changes.0.knn.value", 1.5, "outside"),
    ("levels.0.changes.0.linear.p_holm", 0.0, "p_holm 0.0"),
    ("levels.1.level", 0, "levels have the numbers"),
    ("factor_tests.0.second", 9, "levels 1 and 9"),
    ("level_map.0.mutual_knn.value", 1.2, "value is 1.2"),
    ("level_map.0.first", 7, "levels 7 and 1"),
    ("joining.0.level", 8, "level is 8"),
    ("verdict.asked", 0, "1 changes of 0"),
    ("profile_version", 99, "reads up to"),
    ("profile_version", True, "no profile of hjepa"),
    ("levels", [], "levels have"),
]


def edited(content: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    *path, last = (int(part) if part.isdigit() else part for part in field.split("."))
    inside: Any = content
    for part in path:
        inside = inside[part]
    inside[last] = value
    return content


def test_profile__comes_back_as_it_was(tmp_path: Path) -> None:
    profile = profile_of()
    path = write_profile(profile, tmp_path)
    assert read_profile(path) == profile
    assert path.name.startswith("runs-demo__scenes__")


@pytest.mark.parametrize(("field", "value", "message"), EDITS)
def test_edited_profile__is_refused_with_the_field(tmp_path: Path, field: str, value: Any, message: str | None) -> None:
    path = write_profile(profile_of(), tmp_path)
    content = edited(json.loads(path.read_text()), field, value)
    del content["sha256"]
    path.write_text(json.dumps({**content, "sha256": "0" if value != value else hash_json(content)}))
    if message is None:
        read_profile(path)
        return
    with pytest.raises(ResultError, match=message):
        read_profile(path)


def test_edited_profile__is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = write_profile(profile_of(), tmp_path)
    path.write_text(path.read_text().replace('"images": 10000', '"images": 10001'))
    with pytest.raises(ResultError, match="sha256"):
        read_profile(path)


def test_profile_with_a_number_that_is_not_finite__is_not_written(tmp_path: Path) -> None:
    profile = profile_of()
    level = profile.levels[0].model_copy(update={"corruption_error": float("inf")})
    with pytest.raises(ResultError, match=r"corruption_error is inf"):
        write_profile(profile.model_copy(update={"levels": (level, *profile.levels[1:])}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_of_a_folder__pass_profiles_by(tmp_path: Path) -> None:
    path = write_profile(profile_of(), tmp_path)
    record = record_of(model="pixels")
    write_record(record, tmp_path)
    assert [kept.model.name for kept in find_records([tmp_path])] == ["pixels"]
    assert [profile.model.name for profile in find_profiles([tmp_path])] == ["runs/demo"]
    with pytest.raises(ResultError, match="is a profile"):
        read_record(path)

"""Records that were edited: refused with the field that cannot be, or by the checksum; never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from folders import SUPPORT
from made_page import located_of

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.results.files import read_record, write_record
from hjepa_eval.results.records import SCHEMA_VERSION

NAN, INFINITE = float("nan"), float("inf")
SCORE, CLASS, PAIR, CHOICE = "levels.1.scores.0", "levels.1.per_class", "comparisons.0", "choices.0"
# (field, its new value, what the message says of it)
EDITS: list[tuple[str, Any, str]] = [
    (f"{SCORE}.value", 2.5, "value is 2.5"),
    (f"{SCORE}.value", -3.0, "value is -3.0"),
    (f"{SCORE}.value", NAN, "value is nan"),
    (f"{SCORE}.value", INFINITE, "value is inf"),
    (f"{SCORE}.value", 0.76, "per_class counts 30 of 40"),
    (f"{SCORE}.low", 0.9, "low 0.9"),
    (f"{SCORE}.low", -0.5, "low is -0.5"),
    (f"{SCORE}.low", NAN, "low is nan"),
    (f"{SCORE}.high", 0.1, "high 0.1"),
    (f"{SCORE}.high", 1.5, "high 1.5"),
    (f"{SCORE}.num_samples", -5, "num_samples is -5"),
    (f"{SCORE}.num_samples", 5, "num_samples is 5"),
    (f"{SCORE}.num_samples", 39, "num_samples is 39"),
    ("levels.1.scores.1.num_samples", 10**9, "different images"),
    (f"{SCORE}.values", [0.5, 0.6], "not the mean of values"),
    (f"{SCORE}.std", -1.0, "std is -1.0"),
    ("levels.1.scores.1.metric", "top1 k=20", "value|twice"),
    ("levels.1.scores", [], "scores is empty"),
    (f"{CLASS}.3", [99, 4], "99 of 4"),
    (f"{CLASS}.3", [-99, -4], "-99 of -4"),
    (f"{CLASS}.3", [1, 4], "per_class counts"),
    (f"{CLASS}.3", [3, 3], "per_class counts 39"),
    (f"{PAIR}.p_value", 7.0, "p_value is 7.0"),
    (f"{PAIR}.p_holm", -2.0, "p_holm -2.0"),
    (f"{PAIR}.p_holm", 0.0, "p_holm 0.0"),
    (f"{PAIR}.difference", NAN, "difference is nan"),
    (f"{PAIR}.difference", 0.4, "difference is 0.4"),
    (f"{PAIR}.low", 0.9, "low 0.9"),
    (f"{PAIR}.first", 99, "99 and 0"),
    (f"{PAIR}.score", "top1 k=21", "top1 k=21"),
    (f"{CHOICE}.value", 0.99, "0.99"),
    (f"{CHOICE}.level", 99, "level is 99"),
    (f"{CHOICE}.oracle", 0, "oracle is 0"),
    (f"{CHOICE}.held_out", {"0": 0.1}, "held_out"),
    (f"{CHOICE}.held_out", {"0": 0.1, "1": 3.0}, "held_out.1 is 3.0"),
    ("levels.1.level", 0, "some of them twice"),
    ("levels.1.level", -1, "level is -1"),
    ("levels.1.width", 0, "width is 0"),
    ("levels", [], "levels is empty"),
    ("levels.1.cost.gflop", NAN, "gflop is nan"),
    ("levels.1.cost.gflop", -1.0, "gflop is -1.0"),
    ("levels.1.cost.milliseconds", -1.0, "milliseconds is -1.0"),
    ("levels.1.calibration", {"ece": 2.0, "ece_scaled": 0.1, "temperature": 1.0}, "ece is 2.0"),
    ("levels.1.calibration", {"temperature": 0.0}, "temperature is 0.0"),
    ("schema_version", -1, "schema_version is -1"),
    ("schema_version", True, "not a result record"),
    ("provenance.created", "yesterday", "'yesterday'"),
    ("provenance.seconds", {"knn": -1.0}, "seconds.knn is -1.0"),
    ("dataset.test_images", -1, "test_images is -1"),
    ("predictions.file", "/etc/passwd", "'/etc/passwd'"),
    ("predictions.file", "../../x.npz", r"'../../x.npz'"),
    ("predictions.sha256", "abc", "'abc'"),
]


@pytest.fixture
def record_file(tmp_path: Path) -> Path:
    return write_record(located_of(tmp_path).record, tmp_path)


def edit(file: Path, field: str, value: Any, *, signed: bool) -> None:
    """Change a field of a record's file; `signed` as one would who knows how the checksum is made."""
    content = json.loads(file.read_text())
    *parents, last = (int(part) if part.isdigit() and "per_class" not in field else part for part in field.split("."))
    node = content
    for parent in parents:
        node = node[int(parent) if isinstance(node, list) else parent]
    node[last] = value
    if signed:
        del content["sha256"]
        text = json.dumps(content)
        content["sha256"] = "" if "NaN" in text or "Infinity" in text else hash_json(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(("field", "value", "said"), EDITS)
def test_read_record__what_cannot_be_is_refused_with_its_field(
    record_file: Path, field: str, value: Any, said: str
) -> None:
    edit(record_file, field, value, signed=True)
    with pytest.raises(ResultError, match=said) as refused:
        read_record(record_file)
    assert str(record_file) in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.weights", "abcdef0123456780"),
        ("dataset.test_fingerprint", "test digitt"),
        ("parameters", {"k": [21]}),
        (f"{SCORE}.low", 0.66),
        (f"{CLASS}.3", [2, 4]),
        ("provenance.command", "hjepa knn"),
        ("sha256", "0" * 64),
    ],
)
def test_read_record__every_other_change_is_refused_by_the_checksum(record_file: Path, field: str, value: Any) -> None:
    edit(record_file, field, value, signed=False)
    with pytest.raises(ResultError, match=r"sha256|per_class"):
        read_record(record_file)


def test_read_record__a_new_record_without_its_checksum_is_refused(record_file: Path) -> None:
    content = json.loads(record_file.read_text())
    assert content.pop("sha256")
    record_file.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="no sha256"):
        read_record(record_file)


def test_read_record__one_of_before_has_no_checksum_and_the_same_bounds(tmp_path: Path) -> None:
    old = SUPPORT / "records" / "schema_1_knn.json"
    assert read_record(old).schema_version < SCHEMA_VERSION
    changed = re.sub(r'"value": 0\.\d+', '"value": 1.7', old.read_text(), count=1)
    (tmp_path / "old.json").write_text(changed)
    with pytest.raises(ResultError, match=r"value is 1\.7"):
        read_record(tmp_path / "old.json")


def test_read_record__absurd_json_is_one_line(tmp_path: Path) -> None:
    for text in ("[" * 200_000, '{"probe": ' + "1" * 6000 + "}", "\ufeff{}", "{"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ResultError, match=r"cannot read the result .*x\.json"):
            read_record(tmp_path / "x.json")


def test_write_record__a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    record = located_of(tmp_path / "made").record
    level = record.levels[1].model_copy(update={"chosen": {"C": NAN}})
    with pytest.raises(ResultError, match=r"levels\.1\.chosen\.C is nan"):
        write_record(record.model_copy(update={"levels": (record.levels[0], level)}), tmp_path)
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize("format_name", ["html", "table"])
@pytest.mark.parametrize(("field", "value", "said"), EDITS)
def test_report__of_an_edited_record_ends_with_one_line(
    record_file: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any, said: str, format_name: str
) -> None:
    from typer.testing import CliRunner

    from hjepa_eval.cli import app

    edit(record_file, field, value, signed=False)
    monkeypatch.chdir(record_file.parent)
    done = CliRunner().invoke(app, ["report", record_file.name, "--format", format_name])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("hjepa: ")
    assert len(done.stderr.splitlines()) == 1

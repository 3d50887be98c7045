from __future__ import annotations

import os
from pathlib import Path

import pytest

from hjepa_eval.features.memo import file_state, lost_root, memo_file, recall, remember

SIGNATURE = "0123456789abcdef" * 4


def test_recall__gives_back_what_was_remembered_under_the_whole_signature(tmp_path: Path) -> None:
    strange = os.fsdecode(b"k\xe4se")
    remember(tmp_path / "m", SIGNATURE, {"names": [strange], "n": 3})
    assert recall(tmp_path / "m", SIGNATURE) == {"names": [strange], "n": 3}
    other = SIGNATURE[:-1] + "0"
    assert memo_file(tmp_path / "m", other) == memo_file(tmp_path / "m", SIGNATURE)
    assert recall(tmp_path / "m", other) is None
    assert recall(None, SIGNATURE) is None


@pytest.mark.parametrize("record", ["", "[]", "3", "{}", f'{{"signature": "{SIGNATURE}", "answer": 3}}', "\xff"])
def test_recall__damaged_memo_is_none(tmp_path: Path, record: str) -> None:
    memo_file(tmp_path, SIGNATURE).write_bytes(record.encode("latin-1"))
    assert recall(tmp_path, SIGNATURE) is None
    assert lost_root(memo_file(tmp_path, SIGNATURE)) is None


def test_remember__unwritable_memo_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    remember(tmp_path / "m", SIGNATURE, {})
    remember(None, SIGNATURE, {})
    assert recall(tmp_path / "m", SIGNATURE) is None


def test_file_state__changes_with_content_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_state(path.stat())[:2] == file_state(before)[:2]
    assert file_state(path.stat()) != file_state(before)


def test_lost_root__is_what_an_answer_is_about_once_it_is_gone(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"k\xe4se")
    data.mkdir()
    remember(tmp_path / "m", SIGNATURE, {}, root=data)
    assert lost_root(memo_file(tmp_path / "m", SIGNATURE)) is None
    data.rmdir()
    assert lost_root(memo_file(tmp_path / "m", SIGNATURE)) == str(data.resolve())

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hjepa_eval.features.memo import file_state, lost_root, memo_file, recall, remember, remembered

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


def test_recall__an_answer_that_was_damaged_is_asked_for_again(tmp_path: Path) -> None:
    remember(tmp_path, SIGNATURE, {"labels": [0, 0, 1], "sha256": "00ff"})
    file = memo_file(tmp_path, SIGNATURE)
    whole = file.read_bytes()
    for old, new in ((b"[0,0,1]", b"[1,0,1]"), (b"[0,0,1]", b"[0,0]"), (b"00ff", b"00f_")):
        file.write_bytes(whole.replace(old, new))
        assert recall(tmp_path, SIGNATURE) is None
    file.write_bytes(b"[" * 200_000)
    assert recall(tmp_path, SIGNATURE) is None
    made = remembered(tmp_path, SIGNATURE, lambda: {"labels": [0, 0, 1], "sha256": "00ff"})
    assert made == recall(tmp_path, SIGNATURE)


def test_recall__no_flip_of_a_bit_changes_an_answer(tmp_path: Path) -> None:
    answer = {"labels": [0, 1, 2], "gflop": 0.0622, "names": ["a.png"]}
    remember(tmp_path, SIGNATURE, answer)
    file = memo_file(tmp_path, SIGNATURE)
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert recall(tmp_path, SIGNATURE) in (None, answer)


def test_remembered__makes_an_answer_once_and_keeps_what_may_be_kept(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(len(made))
        return {"number": len(made)}

    assert remembered(tmp_path, SIGNATURE, make, keep=lambda answer: answer["number"] > 1) == {"number": 1}
    assert remembered(tmp_path, SIGNATURE, make, keep=lambda answer: answer["number"] > 1) == {"number": 2}
    assert remembered(tmp_path, SIGNATURE, make) == {"number": 2}
    assert remembered(None, SIGNATURE, make) == {"number": 3}
    assert [path.name for path in tmp_path.iterdir()] == [memo_file(tmp_path, SIGNATURE).name]

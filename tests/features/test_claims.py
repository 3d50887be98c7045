"""Claims: who fills what, told by locks that end with their process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hjepa_eval.features.claims import claim, filling, finishing, is_free, present, stay, this_process

OTHER = """
import sys, time
from pathlib import Path
from hjepa_eval.features.claims import claim, present
with present([Path(sys.argv[1])]):
    with claim([Path(sys.argv[1])], "0-64", owner="rank 1 of 2", say=print) as mine:
        print("holds" if mine else "refused", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "features" / "digits" / "train" / "abcdef"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def other(store: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the part 0-64."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(store)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def take(store: Path, part: str, said: list[str]) -> bool:
    with claim([store], part, owner=this_process(), say=said.append) as mine:
        return mine


def test_claim__one_process_holds_a_part_and_its_death_is_named_once(store: Path, other: subprocess.Popen[str]) -> None:
    said: list[str] = []
    assert not take(store, "0-64", said)
    assert take(store, "64-128", said)
    assert said == []
    other.kill()
    other.wait()
    assert take(store, "0-64", said)
    assert said == ["rank 1 of 2 ended while it extracted images 0-64; they are done again"]
    assert take(store, "0-64", said)
    assert len(said) == 1


def test_claim__of_several_stores_is_all_or_none(store: Path, tmp_path: Path, other: subprocess.Popen[str]) -> None:
    free = store.parent / "fedcba"
    with claim([free, store], "0-64", owner="me", say=print) as mine:
        assert not mine
    with claim([free], "0-64", owner="me", say=print) as mine:
        assert mine, "what was taken before the refusal was given back"


def test_filling__tells_of_others_and_not_of_this_process(store: Path, other: subprocess.Popen[str]) -> None:
    assert filling(store)
    other.kill()
    other.wait()
    assert not filling(store)
    with present([store]):
        assert not filling(store)


def test_finishing__leaves_the_claims_of_others_alone(store: Path, other: subprocess.Popen[str]) -> None:
    assert take(store, "64-128", [])
    with finishing(store):
        pass
    left = sorted(path.name for path in (store.parents[3] / "claims").iterdir())
    assert "abcdef-0-64.lock" in left
    assert "abcdef-64-128.lock" not in left
    assert filling(store)
    other.kill()
    other.wait()
    with finishing(store):
        pass
    assert not list((store.parents[3] / "claims").iterdir())


def test_is_free__a_lock_that_nobody_holds(tmp_path: Path) -> None:
    assert is_free(tmp_path / "x.lock")


def test_stay__counts_its_uses_and_keeps_others_from_removing(tmp_path: Path) -> None:
    store = tmp_path / "features" / "digits" / "train" / "abc"
    leaves = [stay(store), stay(store)]
    (lock,) = (tmp_path / "claims").glob("abc-present-*.lock")
    assert not filling(store)  # This process itself is no other.
    assert not is_free(lock)
    leaves[0]()
    assert not is_free(lock)
    leaves[1]()
    assert not lock.exists()


def test_stay__of_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "claims").touch()
    stay(tmp_path / "features" / "digits" / "train" / "abc")()
    assert [path.name for path in tmp_path.iterdir()] == ["claims"], "and nothing is left"

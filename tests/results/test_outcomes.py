"""Per-sample outcomes in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.errors import ResultError
from hjepa_eval.results.outcomes import SampleOutcomes, read_outcomes, write_outcomes


def test_outcomes__survive_writing_and_reading(tmp_path: Path) -> None:
    found = SampleOutcomes(
        index=np.array([0, 2, 5]),
        labels=np.array([1, 0, 1]),
        outcomes={(0, "top1 k=20"): np.array([True, False, True]), (12, "accuracy ways=5"): np.array([0.2, 0.4, 1.0])},
        predictions={(0, "top1 k=20"): np.array([1, 1, 1])},
        names=("test/a.png", "test/k\udce4se.png", "test/c.png"),
        class_names=("cat", "dog"),
    )
    write_outcomes(found, tmp_path / "x.npz")
    back = read_outcomes(tmp_path / "x.npz")
    assert back.index.tolist() == [0, 2, 5]
    assert back.labels.tolist() == [1, 0, 1]
    assert back.outcomes.keys() == found.outcomes.keys()
    assert back.outcomes[0, "top1 k=20"].dtype == bool
    assert back.outcomes[12, "accuracy ways=5"].tolist() == [0.2, 0.4, 1.0]
    assert back.predictions[0, "top1 k=20"].tolist() == [1, 1, 1]
    assert back.names == ["test/a.png", "test/k\\udce4se.png", "test/c.png"]
    assert back.class_names == ["cat", "dog"]


def test_outcomes__of_before_have_no_names(tmp_path: Path) -> None:
    write_outcomes(SampleOutcomes(np.arange(1), np.arange(1), {}, {}), tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz").files == ["index", "labels"]
    assert read_outcomes(tmp_path / "x.npz").names == ()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no npz"])
def test_read_outcomes__refuses_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ResultError, match="--predictions"):
        read_outcomes(tmp_path / "x.npz")


def test_read_outcomes__never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", index=np.array([object()], dtype=object))
    with pytest.raises(ResultError, match="--predictions") as refused:
        read_outcomes(tmp_path / "x.npz")
    assert "allow_pickle" not in str(refused.value)


def test_write_outcomes__unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    empty = SampleOutcomes(np.arange(1), np.arange(1), {}, {})
    with pytest.raises(ResultError, match="--out"):
        write_outcomes(empty, tmp_path / "file" / "x.npz")

"""Levels whose numbers are doubtful are said loudly, others never."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.cli import main
from hjepa_eval.evaluation.models.imported import import_features


def notes_of(capsys: pytest.CaptureFixture[str], levels: dict[int, np.ndarray]) -> tuple[dict[int, list[str]], str]:
    """Import levels [120, D] of three classes, 90 of them train, and return the kNN record's notes and stderr."""
    labels = np.arange(120) % 3
    content = {"train_labels": labels[:90], "test_labels": labels[90:]}
    for level, features in levels.items():
        content |= {f"train_level{level}": features[:90], f"test_level{level}": features[90:]}
    np.savez("f.npz", **content)
    import_features([Path("f.npz")], name="mine", replace=True)
    with pytest.raises(SystemExit) as stop:
        main(["knn", "--model", "features:mine", "--json", "--k", "5"])
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    (record,) = json.loads(captured.out)
    assert all(0 <= level["rankme"] <= level["width"] for level in record["levels"])
    return {level["level"]: level["notes"] for level in record["levels"]}, captured.err


def clusters(scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((120, 6))
    return (scale * (noise + 6 * np.eye(6)[np.arange(120) % 3]) + shift).astype(np.float32)


def test_doubts__good_features_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    notes, said = notes_of(capsys, {0: clusters(), 1: clusters()[:, ::-1].copy(), 2: clusters(1e-6), 3: clusters(1e6)})
    assert notes == {0: [], 1: [], 2: [], 3: []}
    assert "warning" not in said


def test_doubts__identical_and_nearly_constant_levels_and_chance_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(1).standard_normal((120, 6)).astype(np.float32)
    notes, said = notes_of(capsys, {0: clusters(), 1: clusters(), 2: clusters(0.001, 1.0), 5: noise})
    assert notes[0] == []
    assert notes[1] == ["features are those of level 0: comparing them says nothing"]
    assert notes[2][0].startswith("features are nearly constant: images differ by 0.")
    assert notes[5] == ["accuracy is not above chance: the largest class alone is 33.3 % of the images"]
    assert "warning: features:mine, level 1: features are those of level 0" in said
    assert said.count("warning: ") == 3


def test_doubts__constant_features_are_a_collapse(capsys: pytest.CaptureFixture[str]) -> None:
    notes, _ = notes_of(capsys, {0: np.ones((120, 4), np.float32)})
    assert any("differ by 0 % of their length" in note for note in notes[0])
    assert any("not above chance" in note for note in notes[0])

"""A probe that needs no test split runs on images that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hjepa_eval as hjepa
from hjepa_eval.errors import NoSplitError


def made_folder(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for label, name in enumerate("ab"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 90, (8, 8, 3), dtype=np.uint8)
            pixels[:, label * 4 : label * 4 + 4] += 150
            Image.fromarray(pixels).save(root / "train" / name / f"{number}.png")
    return root


def test_knn__leave_one_out_needs_no_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HJEPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    spec = f"folder:{made_folder(tmp_path / 'photos')}"
    result = hjepa.evaluate("pixels:8", spec, probes=["knn"], k=[3], leave_one_out=True, quiet=True)
    (record,) = result.records
    assert record.levels[0].scores[0].value == 1.0
    assert (record.dataset.train_images, record.dataset.test_images, record.dataset.test_fingerprint) == (16, 0, "")
    with pytest.raises(NoSplitError, match=r"add \?test=0\.2 to the data set's name"):
        hjepa.evaluate("pixels:8", spec, probes=["knn"], k=[3], quiet=True)
    parted = hjepa.evaluate("pixels:8", f"{spec}?test=0.25", probes=["knn"], k=[3], quiet=True)
    assert parted.records[0].dataset.test_images == 4
    assert parted.records[0].dataset.shared_images == 0

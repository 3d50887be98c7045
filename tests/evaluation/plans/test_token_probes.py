"""Probes of tokens from names to records: what tokens are extracted, ceilings beside numbers, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hjepa_eval
from hjepa_eval.datasets.generated.scenes import SceneOptions, Scenes
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level
from hjepa_eval.errors import HjepaError
from hjepa_eval.features.manifest import read_manifest
from hjepa_eval.results.records import Record

SIZE = 32


class Colours(Encoder):
    """Mean colours of 8 x 8 and of 4 x 4 cells: levels whose tokens are known."""

    def __init__(self, grids: tuple[int, ...] = (8, 4)) -> None:
        super().__init__()
        self.name = "colours"
        self.levels = tuple(Level(place, f"{grid} cells", 3, (grid, grid)) for place, grid in enumerate(grids))
        self.transform = Transform(SIZE, SIZE)
        self.settings = {"grids": list(grids)}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, T, 3]` for each level."""
        sizes = [level.grid for level in self.levels]
        return [torch.nn.functional.adaptive_avg_pool2d(images, size).flatten(2).transpose(1, 2) for size in sizes]


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scenes]:
    return {split: Scenes(split, SceneOptions(n=40, size=SIZE)) for split in ("train", "test")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def _record(probe: str, scenes: Any, cache: Path, encoder: Encoder | None = None, **options: Any) -> Record:
    common = {"quiet": True, "baselines": ["none"], "precision": "fp32", "cache_dir": cache, "gallery": False}
    result = hjepa_eval.evaluate(encoder or Colours(), scenes, probes=[probe], **common, **options)
    (record,) = result.records
    return record


def _scores(record: Record, level: int, metric: str) -> dict[str, float]:
    entry = next(each for each in record.levels if each.level == level)
    return {score.key: score.value for score in entry.scores if score.metric == metric}


def test_dense__every_number_has_its_ceiling_and_levels_are_compared_in_pairs(scenes: Any, cache: Path) -> None:
    record = _record("dense", scenes, cache)
    assert record.protocol == "knn-segmentation"
    for level in (0, 1):
        (miou,) = _scores(record, level, "miou").values()
        ceiling = _scores(record, level, "ceiling")
        (share,) = _scores(record, level, "share").values()
        assert share == pytest.approx(miou / ceiling["ceiling of=miou cells=soft"])
        assert miou < ceiling["ceiling of=miou cells=soft"]
    assert [(test.first, test.second, test.score) for test in record.comparisons] == [(1, 0, "miou")]
    assert record.choices[0].held_out.keys() == {0, 1}
    assert record.parameters["readout"] == "tokens"


@pytest.mark.parametrize(
    ("protocol", "metric"),
    [("linear-segmentation", "miou"), ("depth", "r2"), ("correspondence", "within"), ("discovery", "corloc")],
)
def test_dense__every_protocol_has_its_headline(protocol: str, metric: str, scenes: Any, cache: Path) -> None:
    record = _record("dense", scenes, cache, dense_protocol=protocol, pairs=10)
    headlines = {score.metric for level in record.levels for score in level.scores if score.headline}
    assert headlines == {metric}
    assert record.comparisons[0].score == metric


def test_attentive__last_and_all_by_pooled_and_tokens_are_compared(scenes: Any, cache: Path) -> None:
    options = {"lr": [0.01], "weight_decay": [0.0], "queries": 2, "head_steps": 2, "head_epochs": 1, "head_batch": 16}
    record = _record("attentive", scenes, cache, **options)
    joined = record.levels[-1]
    assert joined.fused == (0, 1)
    assert {score.key for score in joined.scores if score.headline} == {"top1 reads=pooled", "top1 reads=tokens"}
    for reads in ("pooled", "tokens"):
        masses = [score.value for score in joined.scores if score.metric == "attention" and reads in score.key]
        assert sum(masses) == pytest.approx(1, abs=1e-5)
    assert len(record.contrasts) == 6
    assert {test.test for test in record.contrasts} == {"McNemar exact"}
    assert {test.first[0] for test in record.contrasts} <= {1, joined.level}


def test_tokens__are_stored_in_half_precision_of_a_seeded_part(scenes: Any, tmp_path: Path) -> None:
    record = _record("dense", scenes, tmp_path, token_images=12)
    manifests = [read_manifest(file.parent) for file in tmp_path.rglob("manifest.json")]
    tokens = {manifest.split: manifest for manifest in manifests if manifest.readout == "tokens"}
    assert tokens["train"].num_images == 12 and tokens["test"].num_images == len(scenes["test"])  # noqa: PT018
    assert {manifest.storage for manifest in tokens.values()} == {"float16"}
    assert record.parameters["token_images"] == 12
    assert record.dataset.train_images == len(scenes["train"])


def test_tokens__the_budget_is_said_before_extraction(
    scenes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hjepa_eval.extract(Colours(), scenes, readout=["tokens"], cache_dir=tmp_path, precision="fp32")
    said = capsys.readouterr().err
    assert said.index("480 bytes each") < said.index("extract colours")


class _Masks(Scenes):
    """Scenes with masks that a test changes."""

    change: Any = None

    def maps(self, index: int) -> dict[str, np.ndarray]:
        """Return the maps, changed."""
        known = super().maps(index)
        return {**known, "class": type(self).change(known["class"], self.split)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask, split: mask[:-1], "is 31 x 32, its image 32 x 32"),
        (lambda mask, split: mask + 40, "class number 4"),
        (lambda mask, split: np.full_like(mask, 255), "all are ignored"),
    ],
)
def test_dense__masks_that_do_not_fit_are_one_line(
    change: Any, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Masks, "change", staticmethod(change), raising=False)
    masks = {split: _Masks(split, SceneOptions(n=40, size=SIZE)) for split in ("train", "test")}
    with pytest.raises(HjepaError, match=message):
        _record("dense", masks, cache)


def test_dense__a_class_of_test_alone_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(mask: np.ndarray, split: str) -> np.ndarray:
        return mask if split == "test" else np.where(mask == 1, 0, mask).astype(np.uint8)

    monkeypatch.setattr(_Masks, "change", staticmethod(change), raising=False)
    masks = {split: _Masks(split, SceneOptions(n=40, size=SIZE)) for split in ("train", "test")}
    record = _record("dense", masks, cache)
    assert any("absent from those of train" in note for note in record.levels[0].notes)


def test_dense__a_level_of_one_token_and_a_data_set_without_masks_are_refused_before_extraction(
    scenes: Any, tmp_path: Path
) -> None:
    with pytest.raises(HjepaError, match=r"level 1 \(1 cells\) has one token per image.*--level 0"):
        _record("dense", scenes, tmp_path, Colours((4, 1)))
    with pytest.raises(HjepaError, match="knows no classes of pixels"):
        _record("dense", "digits", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_tokens__a_disk_too_small_is_refused_with_the_number(
    scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(HjepaError, match=r"tokens need 24\.0 kB more, and the disk of .* has 1\.0 kB left"):
        _record("dense", scenes, tmp_path)

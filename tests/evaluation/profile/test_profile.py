"""Profiles from names to records, on scenes of which everything is known; the model is one whose levels know it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hjepa_eval as hjepa
from hjepa_eval.errors import ConfigError
from hjepa_eval.results.profile_files import find_profiles
from hjepa_eval.results.profiles import Profile

SCENES = "scenes?n=240?size=32"
# An encoder of two levels without weights: what it computes are the facts themselves.
MODEL = "facts:32"


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("profile")
    folders = {"cache_dir": folder / "cache", "out": folder / "results"}
    made = hjepa.profile(MODEL, SCENES, baselines=["none"], map_measures=["cknna", "rsa"], quiet=True, **folders)
    (kept,) = find_profiles([folder / "results"])
    assert kept.model_dump(mode="json") == made[0].model_dump(mode="json")
    return made[0]


def test_factors__are_classes_then_the_datasets_own_then_facts(profiled: Profile) -> None:
    assert profiled.factors[:4] == ("class", "superclass", "colour", "texture")
    assert profiled.factors[-2:] == ("spectral slope", "symmetry")
    assert [level.level for level in profiled.levels if level.fused] == [2]
    assert all(len(level.factors) == len(profiled.factors) for level in profiled.levels)


def test_factors__a_level_that_holds_a_fact_tells_it_and_shuffled_ones_it_does_not(profiled: Profile) -> None:
    scores = {score.factor: score for score in profiled.levels[1].factors}
    assert scores["lightness"].value > 0.9
    assert scores["lightness"].low <= scores["lightness"].value <= scores["lightness"].high
    assert scores["lightness"].control < 0.1 < scores["lightness"].selectivity
    assert scores["x"].value < 0.5


def test_factors__are_tested_over_the_whole_table(profiled: Profile) -> None:
    assert len(profiled.factor_tests) == len(profiled.factors)  # Two levels: a pair for each.
    assert max(test.p_holm for test in profiled.factor_tests) <= 1
    smallest = min(profiled.factor_tests, key=lambda test: test.p_value)
    assert smallest.p_holm == pytest.approx(min(1.0, smallest.p_value * len(profiled.factor_tests)))


def test_map__has_the_pair_of_levels_and_what_each_adds(profiled: Profile) -> None:
    (pair,) = profiled.level_map
    assert (pair.first, pair.second, pair.other_model) == (0, 1, "")
    assert 0 < pair.mutual_knn.calibrated < 1
    assert pair.low <= pair.mutual_knn.value <= pair.high
    assert not pair.identical
    assert pair.cka_chance is not None
    assert pair.cka_chance.value == pair.cka
    assert set(pair.further) == {"cknna", "rsa"}
    first, second = profiled.joining
    assert first.together == second.together
    assert first.difference == pytest.approx(first.together - first.others)
    assert (first.others, second.others) == (second.alone, first.alone)


def test_geometry_and_neighbours__are_of_the_same_images_at_all_levels(profiled: Profile) -> None:
    finest, coarsest = profiled.levels[:2]
    for part in ("geometry", "neighbours"):
        # How many mistakes there are is the level's own.
        sizes = [
            [measure.num_samples for measure in getattr(level, part) if not measure.name.startswith("mistakes")]
            for level in (finest, coarsest)
        ]
        assert sizes[0] == sizes[1]
    names = {measure.name for measure in finest.neighbours}
    assert {"mAP", "recall@1", "clustering NMI", "mistakes within superclass", "worst background"} <= names
    ranks = {measure.name: measure for measure in finest.geometry}
    assert "fewer than 10 each" in ranks["RankMe"].note


def test_baselines__are_profiles_too_and_stand_in_the_map(tmp_path: Path) -> None:
    made = hjepa.profile(
        MODEL, SCENES, baselines=["pixels:8"], parts=["map"], cache_dir=tmp_path, max_samples=120, quiet=True
    )
    assert [(profile.model.name, profile.baseline) for profile in made] == [("facts:32", False), ("pixels:8", True)]
    assert {pair.other_model for pair in made[0].level_map} == {"", "pixels:8"}
    assert made[1].level_map == ()
    assert [entry.name for entry in made[1].left_out] == ["joining"]


def test_identical_levels__are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "twice.py"
    model.write_text(
        "from hjepa_eval.encoders.kinds.pixels import load_pixels\n"
        "from hjepa_eval.encoders.protocol import Encoder\n"
        "from dataclasses import replace\n"
        "class Twice(Encoder):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = load_pixels('8')\n"
        "        own = self.inner.levels[0]\n"
        "        self.name, self.settings, self.files = 'twice', {}, ()\n"
        "        self.transform = self.inner.transform\n"
        "        self.levels = tuple(replace(own, index=i) for i in range(2))\n"
        "    def forward(self, images):\n"
        "        return self.inner(images) * 2\n"
        "def build():\n"
        "    return Twice()\n"
    )
    made = hjepa.profile(f"{model}:build", "digits", baselines=["none"], parts=["map"], cache_dir=tmp_path / "cache")
    assert made[0].level_map[0].identical
    assert "levels 0 and 1 are identical" in capsys.readouterr().err


def test_images_of_another_kind__are_told_from_the_datasets_own(tmp_path: Path) -> None:
    made = hjepa.profile(
        MODEL, SCENES, baselines=["none"], parts=["neighbours"], ood="digits", cache_dir=tmp_path, quiet=True
    )
    found = {measure.name: measure for measure in made[0].levels[1].neighbours}
    assert found["OOD AUROC"].value is not None
    assert 0 <= found["OOD AUROC"].value <= 1
    assert found["OOD FPR95"].chance == 0.95
    assert found["OOD AUROC"].parameters["dataset"] == "digits"
    with pytest.raises(ConfigError, match="is the dataset itself"):
        hjepa.profile(MODEL, SCENES, baselines=["none"], parts=["neighbours"], ood=SCENES, cache_dir=tmp_path)


def test_changes__a_drop_a_share_and_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa_eval.datasets.changes.changes import Change
    from hjepa_eval.evaluation.profile import changes

    few = [Change("brightness", 1), Change("brightness", 5), Change("shift"), Change("flip")]
    monkeypatch.setattr(changes, "all_changes", lambda seed: few)
    made = hjepa.profile(
        MODEL, SCENES, baselines=["none"], parts=["changes"], change_images=60, cache_dir=tmp_path, quiet=True
    )[0]
    weak, strong, shift, flip = made.levels[1].changes
    assert strong.knn.drop >= weak.knn.drop - 0.2
    assert weak.invariance > strong.invariance
    assert (weak.equivariance, shift.num_samples) == (None, 60)
    assert flip.equivariance is not None
    assert made.verdict is not None
    assert made.verdict.asked == 4
    assert "of 4 changes" in made.verdict.sentence
    assert [entry.name for entry in made.left_out] == ["mean corruption error"]
    assert {measure.name for measure in made.levels[0].geometry} == {"alignment"}


def test_changes__errors_relative_to_kmeans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa_eval.datasets.changes.changes import Change
    from hjepa_eval.evaluation.profile import changes

    monkeypatch.setattr(changes, "all_changes", lambda seed: [Change("brightness", 3), Change("shift")])
    made = hjepa.profile(
        "pixels:8",
        "digits",
        baselines=["kmeans:8"],
        parts=["changes"],
        change_images=60,
        cache_dir=tmp_path,
        max_samples=300,
        quiet=True,
    )
    errors = {profile.model.name.partition(":")[0]: profile.levels[0].corruption_error for profile in made}
    assert errors["kmeans"] == pytest.approx(1)
    knn = {profile.model.name: 1 - profile.levels[0].changes[0].knn.value for profile in made}
    assert errors["pixels"] == pytest.approx(knn["pixels:8"] / knn[made[1].model.name])
    assert np.isfinite(list(errors.values())).all()


def test_changes__an_encoder_that_is_not_deterministic_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hjepa_eval.datasets.changes.changes import Change
    from hjepa_eval.evaluation.profile import changes

    monkeypatch.setattr(changes, "all_changes", lambda seed: [Change("shift")])
    model = tmp_path / "noisy.py"
    model.write_text(
        "import torch\n"
        "from hjepa_eval.encoders.kinds.pixels import Pixels\n"
        "class Noisy(Pixels):\n"
        "    calls = 0\n"
        "    def forward(self, images):\n"
        "        Noisy.calls += 1\n"
        "        return [level + 0.5 * torch.sin(level * 1000 * Noisy.calls) for level in super().forward(images)]\n"
        "def build():\n"
        "    return Noisy(8)\n"
    )
    made = hjepa.profile(
        *(f"{model}:build", "digits"),
        baselines=["none"],
        parts=["changes"],
        change_images=40,
        max_samples=100,
        cache_dir=tmp_path / "cache",
    )
    assert "not deterministic" in made[0].notes[0]
    assert "not deterministic" in capsys.readouterr().err


def test_imported_features__have_classes_but_no_facts_and_no_changes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("test", 40)):
        labels = np.arange(count) % 4
        features = generator.normal(size=(count, 6)) + 3 * np.eye(6)[labels]
        arrays |= {f"{split}_level0": features.astype(np.float32), f"{split}_labels": labels}
    np.savez(tmp_path / "made.npz", **arrays)
    hjepa.import_features([tmp_path / "made.npz"], name="made", cache_dir=tmp_path / "cache")
    made = hjepa.profile("features:made", changes=True, cache_dir=tmp_path / "cache", quiet=True)[0]
    assert made.factors == ("class",)
    assert made.levels[0].factors[0].value > 0.6
    assert {entry.name for entry in made.left_out} == {"changes", "joining"}
    with pytest.raises(ConfigError, match="--ood digits: features:made has features only"):
        hjepa.profile("features:made", parts=["neighbours"], ood="digits", cache_dir=tmp_path / "cache", quiet=True)


def test_evaluate__leads_from_profile_to_the_function() -> None:
    with pytest.raises(ConfigError, match=r"hjepa\.profile\(model, dataset\)"):
        hjepa.evaluate(MODEL, SCENES, probes=["knn", "profile"])

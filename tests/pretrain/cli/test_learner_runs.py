"""`hjepa pretrain` of YAML files with a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import ROOT
from hjepa_pretrain.cli.learners import find_learner, load_learner
from hjepa_pretrain.config.learners import FOLDER

from hjepa_eval.cli import main
from hjepa_eval.encoders import load_encoder
from hjepa_eval.errors import ConfigError, UnknownNameError

PRESETS = sorted((ROOT / "configs" / FOLDER).glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets__are_found_by_their_names_and_say_how_to_run_them(preset: Path) -> None:
    assert find_learner(preset.stem) == preset
    assert preset.read_text().startswith(f"# hjepa pretrain --config configs/{FOLDER}/{preset.name}")
    assert load_learner(preset, ["train.epochs=2"], flags={}).train.minutes is None


def test_settings__unknown_tasks_and_keys_are_told_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: sacade\n")
    with pytest.raises(UnknownNameError, match="did you mean 'saccade'"):
        load_learner(file, [], flags={})
    file.write_text("task: saccade\nmodel: {shft: 1}\n")
    with pytest.raises(ConfigError, match="shift"):
        load_learner(file, [], flags={})
    assert find_learner("digits") is None


@pytest.mark.rows("E3")
def test_saccade__a_run_is_a_model_for_evaluation_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "saccade_cifar10_cpu", "--dataset", "digits", "--quiet", "--out", str(tmp_path / "run")]
    small = ["model.network=resnet10t", "data.max_samples=96", "train.epochs=2", "train.batch_size=32"]
    small += ["diagnostics.bank=32", "model.levels=2", "model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]"]
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *words, *(word for value in small for word in ("--set", value))])
    assert not ended.value.code
    assert "next: hjepa eval --model" in capsys.readouterr().out
    encoder = load_encoder(str(tmp_path / "run"))
    assert [level.grid for level in encoder.levels] == [(2, 2), (1, 1)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["task"] == "saccade"
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--resume", str(tmp_path / "run"), "--quiet"])
    assert not ended.value.code

"""The flat YAML and the calls of the document on a plain JEPA, with our names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings, load_settings
from hjepa_pretrain.config.flat_keys import FLAT_KEYS, from_flat
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.objectives.losses import level_loss

from hjepa_eval.cli import main
from hjepa_eval.config import parse_yaml
from hjepa_eval.errors import ConfigError

DOCUMENTED = """
backbone: vit_base_patch16_224
mask_ratio: 0.5
batch_size: 256
learning_rate: 1e-4
epochs: 100
ema_decay: 0.99
loss_type: huber
"""
TINY = (
    "model.encoder_depth=2",
    "model.predictor={depth: 1, num_heads: 3, embed_dim: 48}",
    "model.num_hierarchies=2",
)


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    path = tmp_path / "imagenet_vit.yaml"
    path.write_text(DOCUMENTED)
    return path


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        from_flat(values, source="here")
    return str(error.value)


@pytest.mark.rows("C4")
def test_flat__documented_keys_become_nested_settings(documented: Path) -> None:
    settings = load_settings(str(documented), [])
    assert settings.model.encoder_type == "vit_base_patch16_224"
    assert (settings.masking.type, settings.masking.mask_ratio) == ("multi_block", 0.5)
    assert (settings.train.batch_size, settings.train.lr, settings.train.epochs) == (256, 1e-4, 100)
    assert settings.train.loss == "huber"
    assert (settings.model.ema.momentum, settings.model.ema.momentum_end) == (0.99, 0.99)


def test_flat__every_key_names_settings_that_exist() -> None:
    for dotted in (dotted for targets in FLAT_KEYS.values() for dotted in targets):
        schema: Any = PretrainSettings
        for part in dotted.split("."):
            assert part in schema.model_fields, dotted
            schema = schema.model_fields[part].annotation


def test_flat__nested_keys_are_left_alone_and_join_flat_ones() -> None:
    nested = {"model": {"num_hierarchies": 2, "ema": {"momentum_end": 0.999}}, "data": {"dataset": "digits"}}
    assert from_flat(nested) == nested
    assert from_flat({"backbone": "vit_tiny_patch2_8", "ema_decay": 0.9, **nested}) == {
        "model": {
            "encoder_type": "vit_tiny_patch2_8",
            "num_hierarchies": 2,
            "ema": {"momentum": 0.9, "momentum_end": 0.999},
        },
        "data": {"dataset": "digits"},
    }


def test_flat__a_setting_given_both_ways_is_refused_by_both_names_all_at_once() -> None:
    message = refused({"learning_rate": 1e-4, "ema_decay": 0.9, "train": {"lr": 1}, "model": {"ema": {"momentum": 0}}})
    assert message.startswith("here: ")
    assert "learning_rate and train.lr are the same setting; keep one of them" in message
    assert "ema_decay and model.ema.momentum are the same setting" in message


def test_flat__misspelt_keys_get_a_suggestion_and_wrong_values_the_schema_s_message(tmp_path: Path) -> None:
    message = refused({"learning_rat": 1e-4, "bakbone": "vit_tiny_patch2_8"})
    assert "unknown key 'learning_rat' (did you mean 'learning_rate'?)" in message
    assert "unknown key 'bakbone' (did you mean 'backbone'?)" in message
    path = tmp_path / "flat.yaml"
    for text, part in {
        "maskin: {roll: 1}": "unknown key 'maskin' (did you mean 'masking'?)",
        "loss_type: hubber": "train.loss: input should be 'smooth_l1', 'mse' or 'huber', found 'hubber'",
        "mask_ratio: 2": "masking.mask_ratio: ",
        "learning_rate: fast": "train.lr: ",
        "model: 3": "model: ",
    }.items():
        path.write_text(f"backbone: vit_tiny_patch2_8\nepochs: 1\n{text}\n")
        with pytest.raises(ConfigError) as error:
            load_settings(str(path), [])
        assert part in str(error.value), text


def test_flat__assignments_win_over_the_file_in_either_form(documented: Path) -> None:
    settings = load_settings(str(documented), ["train.lr=1e-3", "ema_decay=0.95", "epochs=2"])
    assert (settings.train.lr, settings.train.epochs) == (1e-3, 2)
    assert (settings.model.ema.momentum, settings.model.ema.momentum_end) == (0.95, 0.95)
    with pytest.raises(ConfigError, match=r"--set: epochs and train\.epochs are the same setting"):
        load_settings(str(documented), ["epochs=2", "train.epochs=3"])


@pytest.mark.rows("C3", "C4")
@pytest.mark.parametrize("kind", ["huber", "mse", "smooth_l1"])
def test_flat__loss_types_are_those_of_torch(kind: str) -> None:
    settings = build_settings(from_flat({"loss_type": kind, "epochs": 1}), "test")
    generator = torch.Generator().manual_seed(0)
    prediction, target = (3 * torch.randn(2, 5, 8, generator=generator) for _ in range(2))
    ours = level_loss(prediction, target, torch.ones(2, 5, dtype=torch.bool), kind=settings.train.loss, beta=0.5)
    theirs = {
        "huber": torch.nn.functional.huber_loss(prediction, target, delta=0.5),
        "mse": torch.nn.functional.mse_loss(prediction, target),
        "smooth_l1": torch.nn.functional.smooth_l1_loss(prediction, target, beta=0.5),
    }[kind]
    torch.testing.assert_close(ours, theirs)


def test_flat__create_hjepa_from_config_reads_it_too() -> None:
    config = {**parse_yaml(DOCUMENTED, "document 002"), "backbone": "vit_tiny_patch4_32"}
    model = create_hjepa_from_config(config, total_steps=100)
    assert model.grid == (8, 8)
    assert {model.update_target_encoder(current_step=step) for step in (0, 50, 99)} == {0.99}


@pytest.mark.rows("C5")
def test_example__pretrain_then_evaluate_the_frozen_context_encoder(
    documented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hjepa(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return captured.out

    run = tmp_path / "run"
    options = [f"--set={setting}" for setting in (*TINY, "data.max_samples=40", 'train.compile="off"')]
    options += ["--set=backbone=vit_tiny_patch2_8", "--set=batch_size=16", "--set=epochs=1"]
    options += ["--set=diagnostics.bank=16", "--quiet", "--json"]
    done = hjepa("pretrain", "--config", documented, "--dataset", "digits", "--out", run, *options)
    assert json.loads(done)["steps"] == 2
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["train"]["lr"] == 1e-4
    assert settings["masking"]["mask_ratio"] == 0.5
    for probe in ("linear", "knn"):
        scored = hjepa(probe, "--model", f"{run}?encoder=context", "--dataset", "digits", "--json", "--quiet")
        assert "context" in scored, scored

"""Every setting is read in the mode that it is given in, or refused there."""

from __future__ import annotations

from typing import Any

import pytest
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.config.unread import MODES, as_recorded

from hjepa_eval.config import merge, parse_assignments
from hjepa_eval.errors import ConfigError

BASE = ["train.epochs=1", "model.encoder_type=vit_tiny_patch4_32"]
VIEWS = ["data.augmentation=asym+global", "train.whole_image.variance=1"]
CROPS = [
    *("train.epochs=1", "model.encoder_type=conv_4_8", "model.num_hierarchies=2", "data.image_size=16"),
    *("data.augmentation=crops", "data.crop_size=8", "train.predicted_share=0", "train.whole_image.centre=1"),
]
CHOICES = {
    "data.augmentation crops": CROPS,
    "a data.augmentation other than crops": VIEWS,
    "no coding_rate": VIEWS,
    "train.optimizer adamw": [],
    "data.augmentation none": ["data.augmentation=none"],
    "data.augmentation without changes of colour": [],
    "data.local_views 0": ["data.augmentation=asym"],
    "train.predicted_share 0": [*VIEWS, "train.predicted_share=0"],
    "a single level": ["model.num_hierarchies=1"],
    "an energy transformer": ["model.encoder_type=energy_tiny_patch4_32"],
    "a model.encoder_type that is no energy transformer": [],
    "train.loss mse": ["train.loss=mse"],
    "train.schedule constant": ["train.schedule=constant"],
    "a train.schedule other than cooldown": ["train.schedule=constant"],
    "no term on projections": [],
    "no contrast": VIEWS,
    "no sigreg": VIEWS,
    "diagnostics.bank 0": ["diagnostics.bank=0"],
}
OTHER: dict[str, Any] = {
    "data.crop_scale": "[0.5, 1]",
    "data.flip": "false",
    "data.jitter": "[0.1, 0.1, 0.1, 0.1]",
    "data.gray": "0.5",
    "data.local_scale": "[0.2, 0.3]",
    "train.loss": "huber",
    "train.loss_beta": "0.5",
    "train.level_weights": "[1, 1, 0.5]",
    "data.crops": "3",
    "data.crop_size": "12",
    "train.whole_image.levels": "2",
    "train.whole_image.coding_precision": "0.1",
    "train.muon_lr": "0.2",
    "train.muon_momentum": "0.5",
    "model.mask_mode": "zero",
    "masking.type": "random",
    "masking.num_masks": "2",
    "masking.mask_scale": "[0.1, 0.12]",
    "masking.aspect_ratio": "[0.4, 0.5]",
    "masking.context_scale": "[0.6, 0.7]",
    "masking.allow_target_overlap": "false",
    "masking.max_attempts": "1",
    "masking.num_hierarchies": "2",
    "masking.num_masks_per_level": "2",
    "masking.scale_progression": "linear",
    "masking.base_scale": "[0.1, 0.2]",
    "masking.aligned": "0.9",
    "masking.roll": "0.9",
    "masking.mask_ratio": "0.7",
    "masking.mask_ratio_end": "0.8",
    "masking.context_tokens": "10",
    "masking.target_tokens": "5",
    "masking.cell_coverage": "0.6",
    "model.predictor.depth": "2",
    "model.predictor.num_heads": "6",
    "model.predictor.mlp_ratio": "2",
    "model.predictor.embed_dim": "192",
    "model.predictor.order": "coarse_to_fine",
    "model.predictor.fpn": "true",
    "model.layer_scale": "0.1",
    "model.energy_step": "0.5",
    "masking.saliency": "1",
    "train.final_lr": "1e-5",
    "train.cooldown": "0.3",
    "train.whole_image.temperature": "0.1",
    "train.whole_image.sigreg_slices": "9",
    "train.whole_image.hidden_dim": "64",
    "train.whole_image.out_dim": "16",
    "diagnostics.interval": "10",
    "diagnostics.held_out": "0.2",
    "diagnostics.smallest_std": "100",
    "diagnostics.smallest_rank": "0.99",
    "diagnostics.largest_mean_energy": "0.01",
    "diagnostics.rank_drop": "0.1",
}


def built(*assignments: str) -> PretrainSettings:
    return build_settings(merge(parse_assignments([*BASE, *assignments])), "test")


@pytest.mark.parametrize(("name", "key"), [(mode.name, key) for mode in MODES for key in mode.unread])
def test_settings__what_nothing_reads_in_a_mode_is_refused_there_with_the_reason(name: str, key: str) -> None:
    built(*CHOICES[name])
    with pytest.raises(ConfigError, match=rf"with {name} nothing reads [^;]*{key}"):
        built(*CHOICES[name], f"{key}={OTHER[key]}")


def test_settings__modes_and_keys_are_those_that_are_tried() -> None:
    assert {mode.name for mode in MODES} == CHOICES.keys()
    assert {key for mode in MODES for key in mode.unread} == OTHER.keys()


@pytest.mark.parametrize("value", ["inf", ".inf", "-.inf", ".nan"])
def test_settings__that_are_no_finite_numbers_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.(lr|weight_decay)"):
        built(f"train.lr={value}", f"train.weight_decay={value}")


def test_as_recorded__runs_of_before_go_on_without_what_nothing_reads() -> None:
    written = {
        "model": {"predictor": {"depth": 2}},
        "train": {"predicted_share": 0, "whole_image": {"variance": 1.0}, "loss_beta": 3.0},
    }
    assert as_recorded(written) == {
        "model": {"predictor": {}},
        "train": {"predicted_share": 0, "whole_image": {"variance": 1.0}},
    }
    assert as_recorded({"model": {"predictor": {"depth": 2}}}) == {"model": {"predictor": {"depth": 2}}}

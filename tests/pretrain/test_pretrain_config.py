from __future__ import annotations

from pathlib import Path

import pytest
from hjepa_pretrain.config import PretrainSettings
from hjepa_pretrain.loop import pretrain
from pydantic import BaseModel

from hjepa_eval.config import find_preset, load
from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))


def problems(*assignments: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(PretrainSettings, assignments=["train.epochs=1", *assignments])
    return str(error.value)


def test_settings__every_field_has_a_description() -> None:
    def check(schema: type[BaseModel], path: str) -> None:
        for name, field in schema.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation, f"{path}{name}.")
            else:
                assert field.description, f"{path}{name}"

    check(PretrainSettings, "")


def test_settings__impossible_geometry_lists_all_problems_in_one_message() -> None:
    message = problems(
        "model.encoder_type=vit_tiny_patch4_32",
        "model.embed_dim=100",
        "model.num_hierarchies=4",
        "model.taps=[1, 2, 3, 40]",
        "model.predictor.num_heads=7",
        "model.ema.momentum_end=0.5",
        "masking.context_tokens=64",
        "masking.mask_scale=[0.4, 0.2]",
        "train.minutes=5",
        "train.level_weights=[1, 1]",
        "train.whole_image.contrast=1",
    )
    for part in (
        "embed_dim 100 disagrees with the 192",
        "taps [1, 2, 3, 40] must rise and lie between 1 and the encoder's 12 blocks",
        "num_heads 7 does not divide its embed_dim 384",
        "momentum 0.996 lies above momentum_end 0.5",
        "context_tokens 64 leaves nothing to predict on a grid of 8x8; at most 63",
        "masking.mask_scale [0.4, 0.2] is no range",
        "give train.epochs or train.minutes, found both",
        "level_weights has 2 weights for 4 levels",
        "set data.augmentation to asym+global",
    ):
        assert part in message, part


def test_settings__levels_coarser_than_the_grid_and_patches_that_do_not_divide_are_named() -> None:
    assert "4 levels do not fit a grid of 4x4 tokens" in problems(
        "model.encoder_type=vit_tiny_patch8_32", "model.num_hierarchies=4"
    )
    assert "the patch size 5 does not divide the image size 32" in problems("model.encoder_type=vit_tiny_patch5_32")
    assert "does not divide the image of 30 pixels" in problems(
        "model.encoder_type=vit_tiny_patch4_32", "data.image_size=30"
    )


def test_settings__a_level_that_could_never_be_predicted_is_named() -> None:
    assignments = ("model.encoder_type=vit_tiny_patch2_8", "masking.context_tokens=12")
    assert "level 2 would never be predicted: 4 hidden tokens are less than" in problems(*assignments)
    load(PretrainSettings, assignments=["train.epochs=1", *assignments, "masking.cell_coverage=0.25"])


def test_settings__misspelt_keys_and_models_get_a_suggestion() -> None:
    assert "unknown key 'train.epoch' (did you mean 'epochs'?)" in problems("train.epoch=3")
    assert "unknown key 'masking.num_mask' (did you mean 'num_masks'?)" in problems("masking.num_mask=3")
    assert "did you mean 'vit_base'" in problems("model.encoder_type=vit_bse_patch16_224")


def test_settings__a_length_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"give train\.epochs or train\.minutes, found neither"):
        load(PretrainSettings)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets__run_two_steps(preset: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert preset.read_text().startswith("# ")
    assignments = ["train.minutes=null", "train.epochs=1", "train.batch_size=16", "data.max_samples=32"]
    assignments += ["diagnostics.bank=16", "train.log_interval=1"]
    if "cifar10" in preset.stem:
        assignments += [f"data.root={request.getfixturevalue('cifar10_sample')}"]
    settings = load(PretrainSettings, config=preset, assignments=assignments)
    dataset = load_dataset(settings.data.dataset, "train", root=settings.data.root)
    assert pretrain(settings, dataset, run_dir=tmp_path / "run").steps == 2


def test_presets__are_found_by_name() -> None:
    assert find_preset("digits", "pretrain") == PRESETS[[path.stem for path in PRESETS].index("digits")]

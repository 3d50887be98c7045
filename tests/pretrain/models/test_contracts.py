"""What the library refuses: words that name nothing, masks and images that do not fit, a schedule without a length."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hjepa_pretrain.config.schedules import EmaSchedule, learning_rate
from hjepa_pretrain.models import HJEPA, ContextEncoder, Predictor, create_hjepa

from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import ConfigError, TrainingError, UnknownNameError

SMALL: dict[str, Any] = {"encoder_depth": 2, "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
RISING = {"momentum": 0.9, "momentum_end": 1.0, "momentum_warmup_epochs": 2, "schedule": "linear"}


@pytest.fixture(scope="module", params=[1, 2])
def model(request: pytest.FixtureRequest) -> HJEPA:
    return create_hjepa("vit_tiny_patch4_16", num_hierarchies=request.param, **SMALL).eval()


@pytest.mark.rows("A12")
@pytest.mark.parametrize("branch", ["ema", "teacher", "taget", ""])
def test_extract_features__an_unknown_branch_is_refused(model: HJEPA, branch: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown encoder branch"):
        model.extract_features(torch.zeros(1, 3, 16, 16), 0, encoder=branch)


@pytest.mark.rows("A11", "A15")
@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        ((2, 3, 16, 16), (2, 9), "expected a mask [2, 16], one number per image and token of the grid of 4x4"),
        ((2, 3, 16, 16), (2, 64), "found [2, 64]"),
        ((2, 3, 16, 16), (3, 16), "found [3, 16]"),
        ((2, 3, 32, 32), (2, 16), "the encoder takes images [B, 3, 16, 16], found [2, 3, 32, 32]"),
        ((2, 1, 16, 16), (2, 16), "found [2, 1, 16, 16]"),
        ((3, 16, 16), (2, 16), "found [3, 16, 16]"),
    ],
)
def test_forward__masks_and_images_that_do_not_fit_are_named(
    model: HJEPA, images: tuple[int, ...], mask: tuple[int, int], message: str
) -> None:
    masked = torch.zeros(mask)
    masked[:, : mask[1] // 2] = 1
    with pytest.raises(TrainingError, match=re.escape(message)):
        model(torch.zeros(images), masked)


@pytest.mark.rows("A5", "A13")
def test_create_hjepa__can_be_told_the_steps_over_which_the_momentum_rises(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = create_hjepa(
        "vit_tiny_patch4_16", num_hierarchies=2, ema=RISING, total_steps=31, steps_per_epoch=5, **SMALL
    )
    momenta = [model.update_target_encoder(step) for step in (0, 9, 20, 30)]
    assert momenta == pytest.approx([0.9, 0.9, 0.95, 1.0])
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="pass steps_per_epoch as well"):
        create_hjepa("vit_tiny_patch4_16", num_hierarchies=2, ema=RISING, total_steps=31, **SMALL)


def test_update_target_encoder__says_once_that_without_a_length_nothing_rises(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = create_hjepa("vit_tiny_patch4_16", num_hierarchies=2, ema=RISING, **SMALL)
    assert [model.update_target_encoder(step) for step in (0, 100, 10**6)] == [0.9, 0.9, 0.9]
    said = capsys.readouterr().err
    assert said.count("momentum stays at 0.9") == 1
    assert "pass total_steps" in said
    assert model.update_target_encoder(3, progress=1.0) == 1.0
    constant = create_hjepa("vit_tiny_patch4_16", num_hierarchies=2, ema={"momentum": 1.0}, **SMALL)
    constant.update_target_encoder(0)
    assert capsys.readouterr().err == ""


def test_words__that_name_nothing_are_refused_instead_of_meaning_the_other_one() -> None:
    wrong: Any = "drpo"
    with pytest.raises(UnknownNameError, match="did you mean 'drop'"):
        ContextEncoder(create_vit("vit_tiny_patch4_16", depth=1), taps=(1,), mask_mode=wrong)
    with pytest.raises(UnknownNameError, match="order of the predictor"):
        Predictor(encoder_dim=192, grid=(4, 4), embed_dim=32, depth=1, num_heads=2, order=wrong)
    with pytest.raises(UnknownNameError, match="EMA schedule"):
        EmaSchedule(shape=wrong)
    with pytest.raises(UnknownNameError, match="unknown schedule"):
        learning_rate(0.5, peak=1.0, warmup=0.1, shape=wrong)

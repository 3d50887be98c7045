"""A run that is left and gone on with is the same run bit for bit, whatever it computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.settings import PredictorSettings
from hjepa_pretrain.loop import Progress, pretrain
from safetensors.torch import load_file
from small_runs import AVERAGED, VIEWS, small_run, trace

from hjepa_eval.config import merge
from hjepa_eval.datasets import load_dataset

# 80 of 88 digits are trained on: 7 steps, of which an epoch has 2 and a half.
TINY = small_run(
    AVERAGED,
    VIEWS,
    model={"drop_path": 0.2, "predictor": {"depth": 2}},
    data={"flip": False, "max_samples": 88},
    train={"epochs": 3.5, "batch_size": 32, "log_interval": 1, "checkpoint_interval": 3},
    diagnostics={"bank": 32, "interval": 4, "held_out": 0.1},
)
# Where nothing is predicted, no size of a predictor is taken.
NO_PREDICTOR = PredictorSettings().model_dump()
STAGES = {
    "model": {"encoder_type": "test_resnet", "encoder_depth": None, "mask_mode": "zero", "predictor": NO_PREDICTOR},
    "data": {"image_size": 32},
    "train": {"predicted_share": 0},
}
CROPS = {
    "model": {"encoder_type": "conv_4_8", "encoder_depth": None, "drop_path": 0.0, "predictor": NO_PREDICTOR},
    "data": {"image_size": 8, "augmentation": "crops", "crops": 2, "crop_size": 8, "flip": True},
    "train": {
        "predicted_share": 0,
        "optimizer": "muon",
        "whole_image": {"contrast": 0, "centre": 1.0, "coding_rate": 0.01, "predict_crops": 1.0, "levels": 2},
    },
}
CHOICES: dict[str, dict[str, Any]] = {
    "crops": CROPS,
    "bf16": {"train": {"precision": "bf16"}},
    "accumulate": {"train": {"accumulate": 2, "predicted_share": 0.5}},
    "stages": STAGES,
    "hierarchical": {"masking": {"type": "hierarchical", "roll": 0.5}},
    "mask_ratio_end": {"masking": {"mask_ratio": 0.4, "mask_ratio_end": 0.7}},
    "loader": {"data": {"placement": "loader", "workers": 2}},
}


def run(folder: Path, choice: str, *, resume: bool = False, stop_at: int | None = None) -> int:
    def watch(state: Progress) -> None:
        if state.step == stop_at:
            raise KeyboardInterrupt

    settings = build_settings(merge(TINY, CHOICES[choice]), "test")
    digits = load_dataset("digits", "train")
    return pretrain(settings, digits, run_dir=folder, resume=resume, progress=watch, say=lambda _: None).steps


@pytest.mark.parametrize("choice", CHOICES)
def test_resume__is_bit_identical_with_every_way_to_compute(choice: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps = run(whole, choice)
    assert steps > 5
    for stop_at in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            run(parts, choice, resume=parts.exists(), stop_at=stop_at)
    assert run(parts, choice, resume=True) == steps
    assert trace(parts) == trace(whole)
    expected = load_file(whole / "encoder.safetensors")
    for name, tensor in load_file(parts / "encoder.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    last = [folder / "checkpoints" / f"step-{steps:08d}" / "trainer.safetensors" for folder in (whole, parts)]
    others = [load_file(path) for path in last]
    assert others[0].keys() == others[1].keys()
    for name, tensor in others[0].items():
        assert torch.equal(tensor, others[1][name]), name

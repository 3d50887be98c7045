from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PredictorSettings
from hjepa_pretrain.data.training_data import load_training_data
from hjepa_pretrain.diagnostics.alarms import Alarms
from hjepa_pretrain.diagnostics.measuring import _summary, mask_summary, measure_levels, step_gflop
from hjepa_pretrain.masks import Masks
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.runs.logs import flatten
from hjepa_pretrain.training.step import step_loss
from hjepa_pretrain.training.trainer import Trainer
from small_runs import small_run
from torch.utils.flop_counter import FlopCounterMode

from hjepa_eval.config import merge
from hjepa_eval.datasets import load_dataset

CPU = torch.device("cpu")
# 4x4 tokens of 2x2 pixels, of which 6 are seen; width 192, 2 blocks; predictor width 32, 1 block.
TINY = small_run(
    model={"num_hierarchies": 1},
    masking={"context_tokens": 6},
    data={"augmentation": "light", "max_samples": 120},
    train={"epochs": 2, "batch_size": 24, "precision": "fp32"},
    diagnostics={"bank": 60},
)
EVERYTHING: dict[str, Any] = {
    "model": {"num_hierarchies": 2, "drop_path": 0.2},
    "masking": {"saliency": 1.0, "allow_target_overlap": False, "num_masks": 3},
    "data": {"augmentation": "asym+global", "local_views": 1},
    "train": {"whole_image": {"contrast": 1.0, "sigreg": 0.1, "covariance": 1.0, "predict": 1.0}},
}


def trainer(**sections: Any) -> Trainer:
    settings = build_settings(merge(TINY, sections), "test")
    transform = run_transform(settings, resolve_geometry(settings))
    data = load_training_data(settings, load_dataset("digits", "train"), transform, device=CPU)
    return Trainer(settings, data, transform, device=CPU)


def state(made: Trainer) -> list[torch.Tensor]:
    return [*(tensor.clone() for tensor in made.model.state_dict().values()), torch.get_rng_state()]


def assert_untouched(made: Trainer, before: list[torch.Tensor], reads: list[int]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(before, state(made), strict=True))
    assert all(parameter.grad is None for parameter in made.model.parameters())
    assert made.model.training
    assert (made.step, made.pending, made.terms, reads) == (0, [], [], [])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps whose batches are read."""
    from hjepa_pretrain.data.batches import ResidentImages

    steps: list[int] = []
    real = ResidentImages.batch

    def watched(self: ResidentImages, step: int) -> torch.Tensor:
        steps.append(step)
        return real(self, step)

    monkeypatch.setattr(ResidentImages, "batch", watched)
    return steps


def test_step_gflop__by_hand_for_a_flat_model() -> None:
    def blocks(width: int, tokens: int) -> int:
        return 24 * width**2 * tokens + 4 * width * tokens**2

    seen, whole, asked, dim, narrow, pixels = 6, 16, 10, 192, 32, 12
    target = 2 * whole * pixels * dim + 2 * blocks(dim, whole)
    # Going back costs twice the way there, but for patches: pixels need no gradient.
    context = 2 * (2 * seen * pixels * dim) + 3 * 2 * blocks(dim, seen)
    predictor = 3 * (2 * seen * dim * narrow + blocks(narrow, seen + asked) + 2 * asked * narrow * dim)
    head = 3 * 2 * asked * dim**2
    expected = 24 * (target + context + predictor + head) / 1e9
    assert step_gflop(trainer()) == pytest.approx(expected, rel=1e-9)
    again = {"train": {"checkpoint_activations": True, "accumulate": 3}}
    assert step_gflop(trainer(**again)) == pytest.approx(expected, rel=1e-9), "the work, not how it is done"


def test_step_gflop__is_that_of_a_real_step_and_touches_nothing(reads: list[int]) -> None:
    made = trainer(**EVERYTHING)
    before = state(made)
    found = step_gflop(made)
    assert_untouched(made, before, reads)
    for module in made.model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    inputs = made.inputs(made.data.source.batch(0), made.model, number=0, progress=0.0)
    with FlopCounterMode(display=False) as counter:
        step_loss(made.model, inputs, made.settings.train, precision="fp32")[0].backward()
    assert found == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


def test_step_gflop__counts_encoders_with_stages() -> None:
    stages: dict[str, Any] = {
        "model": {"encoder_type": "test_resnet", "encoder_depth": None, "mask_mode": "zero"},
        "masking": {"context_tokens": 24},
        "data": {"image_size": 32, "augmentation": "asym+global"},
        "train": {"predicted_share": 0, "whole_image": {"contrast": 1.0}},
    }
    stages["model"]["predictor"] = PredictorSettings().model_dump()  # Nothing reads its sizes.
    assert step_gflop(trainer(**stages)) > 0


def test_mask_summary__by_hand() -> None:
    # 4x4 tokens: of the first image the upper left quarter is hidden, of the second the two upper rows.
    flags = torch.zeros(2, 4, 4, dtype=torch.bool)
    flags[0, :2, :2] = True
    flags[1, :2] = True
    context = torch.tensor([[10, 11, 14], [12, 13, 0]])
    shown = torch.tensor([[True, True, True], [True, True, False]])
    listed = torch.tensor([[True, True, True], [True, True, True]])
    masks = Masks(torch.as_tensor(context), torch.zeros(2, 3, dtype=torch.int64), listed, flags.flatten(1), shown)
    assert _summary(masks, (4, 4), levels=3) == {
        "context": round(5 / 32, 6),
        "smallest_context": 2,
        "targets": 3 / 16,
        "union": 12 / 32,
        "complete_cells": [6.0, 1.5, 0.0],
        # Corners are hidden 1, 1/2, 0, 0 of the time, the four middle tokens 1, 1/2, 0, 0.
        "corner_to_centre": 1.0,
        "coverage_map": [[1.0, 1.0, 0.5, 0.5], [1.0, 1.0, 0.5, 0.5], [0.0] * 4, [0.0] * 4],
    }
    nowhere = Masks(context, torch.zeros(2, 3, dtype=torch.int64), listed, torch.zeros_like(flags).flatten(1), shown)
    assert _summary(nowhere, (4, 4), levels=1)["corner_to_centre"] is None


@pytest.mark.parametrize(
    "sections", [EVERYTHING, {"masking": {"type": "hierarchical"}}, {"masking": {"type": "random"}}]
)
def test_mask_summary__says_what_is_drawn_and_touches_nothing(sections: dict[str, Any], reads: list[int]) -> None:
    made = trainer(**sections)
    before = state(made)
    found = mask_summary(made)
    assert_untouched(made, before, reads)
    assert found == mask_summary(made)
    assert (found["context"], found["smallest_context"]) == (0.375, 6)
    assert 0 < found["targets"] <= found["union"] <= 0.625
    assert len(found["complete_cells"]) == made.model.num_levels
    assert found["complete_cells"][0] == pytest.approx(16 * found["union"], abs=1e-4)


def test_mask_summary__follows_a_mask_ratio_that_changes() -> None:
    made = trainer(masking={"context_tokens": None, "mask_ratio": 0.5, "mask_ratio_end": 0.75})
    assert mask_summary(made)["smallest_context"] == 8
    assert mask_summary(made, progress=1.0)["smallest_context"] == 4
    made.step = made.total_steps or 0
    assert mask_summary(made)["smallest_context"] == 4


def test_mask_summary__rolled_masks_treat_corners_as_the_centre() -> None:
    def ratio(roll: float) -> float:
        value = mask_summary(trainer(masking={"roll": roll}))["corner_to_centre"]
        assert isinstance(value, float)
        return value

    assert ratio(0.0) < 0.75 < 0.85 < ratio(1.0) < 1.2


def test_measure_levels__has_the_masks_where_logs_and_alarms_cope_with_them() -> None:
    made = trainer()
    found = measure_levels(made)
    assert found["masks"] == mask_summary(made)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert flatten(found)["masks/context"] == 0.375
    assert flatten(found)["masks/complete_cells/0"] == found["masks"]["complete_cells"][0]
    alarms = Alarms(made.settings.diagnostics, widths=made.geometry.widths)
    alarms.check(1, 0.1, {"loss": 1.0}, {**found, "masks": {**found["masks"], "corner_to_centre": None}})
    assert alarms.best_step == 1


def test_pretrain__writes_the_masks_with_every_measurement(digits_run: Path) -> None:
    lines = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "knn" in line]
    assert measured
    assert all(line["masks"]["smallest_context"] == 6 for line in measured)
    last = measured[-1]
    assert 0 < last["mfu"] < 1
    assert last["mfu"] == pytest.approx(last["tflops_per_second"] / last["peak_tflops_per_second"], rel=0.05, abs=1e-4)

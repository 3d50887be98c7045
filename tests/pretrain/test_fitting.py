from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.fitting import fit
from hjepa_pretrain.jepa import JEPA, CNNEncoder, HierarchicalPredictor, MLPEncoder, MultiScaleEncoder, Predictor
from hjepa_pretrain.loop import Progress
from hjepa_pretrain.runs.files import Summary
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from small_runs import trace
from torch import Tensor

from hjepa_eval.errors import ConfigError, TrainingError

TRAIN = {
    "epochs": 4,
    "batch_size": 32,
    "accumulate": 2,
    "log_interval": 2,
    "checkpoint_interval": 4,
    "precision": "fp32",
}
DIAGNOSTICS = {"bank": 64, "interval": 8}


def digits() -> tuple[tuple[Tensor, Tensor], Tensor]:
    """160 pairs of a digit and the same, moved to the right by one pixel; and their classes."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images[:160], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return (pixels, pixels.roll(1, -1)), torch.tensor(labels[:160])


def run(
    folder: Path,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    model: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[JEPA, Summary]:
    def watch(state: Progress) -> None:
        if state.step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    scales = MultiScaleEncoder(
        CNNEncoder(1, 16, channels=(8,)), MLPEncoder(64, 16), local_dim=16, global_dim=16, hidden_dim=32
    )
    learner = JEPA(scales, HierarchicalPredictor(32), **(model or {"momentum": 0.9}))
    examples, labels = digits()
    train = {**TRAIN, **changes}
    summary = fit(
        learner,
        examples,
        run_dir=folder,
        labels=labels,
        train=train,
        diagnostics=DIAGNOSTICS,
        resume=resume,
        progress=watch,
        say=[].append,
    )
    return learner, summary


@pytest.mark.rows("D6")
def test_fit__resumes_bit_for_bit_and_watches_encoder_and_predictor_apart(tmp_path: Path) -> None:
    model, summary = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at=7)
    run(tmp_path / "parts", resume=True)
    assert trace(tmp_path / "whole") == trace(tmp_path / "parts")
    weights = [load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert {"loss", "r2", "gradient_encoder", "gradient_predictor", "gradient_norm"} == set(summary.losses)
    assert summary.measures["knn"][0] > 0.2
    assert summary.best is not None
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["encoder"]["learner"]["config"]["encoder"]["class"] == "MultiScaleEncoder"
    assert not model.training or model.encoder.training


@pytest.mark.rows("D4")
def test_fit__patterns_beat_the_copy_of_the_mean_on_real_images(tmp_path: Path) -> None:
    spread = {"target": "same", "loss": "vicreg", "normalise_target": False}
    _, summary = run(tmp_path / "run", model=spread, epochs=16, accumulate=1, lr=1e-2)
    assert summary.losses["r2"] > 0.2  # 0 is what the mean target explains.


@pytest.mark.rows("D6")
def test_fit__mixed_precision_trains_too(tmp_path: Path) -> None:
    _, summary = run(tmp_path / "run", epochs=1, precision="bf16")
    assert summary.losses["loss"] == pytest.approx(summary.losses["loss"])


def refused(folder: Path, *, train: dict[str, Any] | None = None, **changes: Any) -> str:
    examples, labels = digits()
    model = JEPA(CNNEncoder(1, 16, channels=(8,)), Predictor(16))
    options: dict[str, Any] = {"examples": examples, "labels": labels, "train": {**TRAIN, **(train or {})}, **changes}
    with pytest.raises((ConfigError, TrainingError)) as error:
        fit(model, run_dir=folder, say=[].append, **options)
    assert not (folder / "summary.json").exists()
    return str(error.value)


def test_fit__bad_input_is_a_sentence(tmp_path: Path) -> None:
    (now, then), labels = digits()
    assert "train.loss belong to image runs" in refused(tmp_path, train={"loss": "mse"})
    assert "train.epochs or train.minutes" in refused(tmp_path, train={"minutes": 1})
    assert "does not divide" in refused(tmp_path, train={"accumulate": 3})
    assert "160 examples and 159 labels" in refused(tmp_path, labels=labels[:-1])
    broken = now.clone()
    broken[3, 0, 0, 0] = torch.nan
    assert "examples[0] hold a value that is not finite (NaN or infinite), first in row 3" in refused(
        tmp_path, examples=(broken, then)
    )

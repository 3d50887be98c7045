"""What a run trained is what evaluation computes with, for every size of encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain import loop, tasks
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.training.trainer import Trainer

from hjepa_eval.cli import main
from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import load_encoder

WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
SIZES = [pytest.param(size, marks=pytest.mark.slow if WIDTHS[size] > 384 else ()) for size in WIDTHS]


def settings(size: str) -> PretrainSettings:
    model = {
        "encoder_type": f"vit_{size}_patch2_8",
        "encoder_depth": 1,
        "num_hierarchies": 2,
        "taps": "final",
        "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "ema": {"momentum": 0.5, "momentum_end": 0.5},
    }
    train = {"epochs": 1, "batch_size": 16, "compile": "off"}
    data = {"dataset": "digits", "max_samples": 32}
    return build_settings({"model": model, "train": train, "data": data, "diagnostics": {"bank": 0}}, "test")


@pytest.mark.parametrize("size", SIZES)
def test_run__of_every_size_gives_evaluation_the_features_that_it_trained(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Trainer] = []

    class Kept(Trainer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(tasks, "Trainer", Kept)
    loop.pretrain(settings(size), load_dataset("digits", "train"), run_dir=tmp_path / "run")
    trained, images = made[0].model.eval(), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = {}
    for branch in ("target", "context"):
        loaded = load_encoder(f"{tmp_path}/run?encoder={branch}")
        assert [level.dim for level in loaded.levels] == [WIDTHS[size]] * 2
        with torch.inference_mode():
            features[branch] = loaded(images)
            for level, output in enumerate(features[branch]):
                expected = trained.extract_features(images, level, encoder=branch)
                torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(features["target"][0], features["context"][0], atol=1e-4)
    with pytest.raises(SystemExit) as stop:
        main(["knn", "--model", f"{tmp_path}/run", "--dataset", "digits", "--max-samples", "200", "--quiet", "--json"])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    (record,) = json.loads(said.out)
    assert [level["width"] for level in record["levels"]] == [WIDTHS[size]] * 2
    assert all(0 < level["scores"][0]["value"] < 1 for level in record["levels"])

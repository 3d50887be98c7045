from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hjepa_eval.encoders import load_encoder
from hjepa_eval.finetune import loop

SMALL = "random:vit_tiny_patch4_8?taps=1,2"
COMMON = ("--model", SMALL, "--dataset", "digits", "--max-samples", 60, "--batch-size", 32, "--precision", "fp32")


def test_finetune__prints_a_table_and_writes_record_and_weights_that_load_again(hjepa) -> None:
    done = hjepa("finetune", *COMMON, "--epochs", 2, "--run", "tuned", "--predictions")
    assert done.code == 0, done.err
    assert "finetune" in done.out
    assert hjepa("compare", "results", "results").code == 0, "its outcomes are there for paired tests"
    assert "block 2" in done.out
    assert "test was touched once" in done.out
    (path,) = Path("results").glob("*__finetune__*.json")
    record = json.loads(path.read_text())
    parameters, (level,) = record["parameters"], record["levels"]
    assert (parameters["epochs"], parameters["layer_decay"], parameters["mixup"]) == (2, 0.75, 0.0)
    assert parameters["augmentation"]["scale"] == [0.35, 1.0]
    assert parameters["augmentation"]["flip"] is True
    assert len(level["chosen"]["curve"]) == 2
    assert [score["metric"] for score in level["scores"]] == ["top1", "top5"]
    assert level["scores"][0]["num_samples"] == 60
    assert level["scores"][0]["interval"] == "wilson 95%"
    again = f"timm:vit_tiny_patch4_8?checkpoint={Path('tuned/encoder.safetensors')}?taps=1,2"
    assert f"--model '{again}'" in done.err
    # The record is of the encoder as it was, so that its frozen probes stand in the same rows.
    assert record["model"]["weights"] == load_encoder(SMALL).weights_hash()
    assert level["chosen"]["weights"] == load_encoder(again).weights_hash() != record["model"]["weights"]
    assert "finetune" in hjepa("report", "results").out


def test_resume__goes_on_with_its_own_settings_and_refuses_others(hjepa, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*COMMON, "--epochs", 3, "--lr", "0.004")
    whole = json.loads(hjepa("finetune", *arguments, "--run", "whole", "--json", "--quiet").out)[0]
    train_epoch = loop._Run.train_epoch

    def stop(self: Any, epoch: int, report: Any) -> dict[str, float]:
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, report)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "train_epoch", stop)
        broken = hjepa("finetune", *arguments, "--run", "broken", "--quiet")
    assert broken.code == 130
    assert "hjepa finetune --resume broken" in broken.err
    refused = hjepa("finetune", *arguments, "--run", "broken")
    assert refused.code == 2
    assert "--resume broken" in refused.err
    other = hjepa("finetune", "--resume", "broken", "--lr", "0.001", "--epochs", 5)
    assert other.code == 2
    assert "epochs: 3 -> 5" in other.err
    assert "lr: 0.004 -> 0.001" in other.err
    resumed = json.loads(hjepa("finetune", "--resume", "broken", "--precision", "fp32", "--json", "--quiet").out)[0]
    assert resumed["levels"][0]["chosen"]["weights"] == whole["levels"][0]["chosen"]["weights"]
    assert resumed["levels"][0]["scores"] == whole["levels"][0]["scores"]
    weights = [Path(run, "encoder.safetensors").read_bytes() for run in ("whole", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model", SMALL, "--level", "0,1"], "reads one level, found 0, 1"),
        (["--model", SMALL, "--level", "7"], "'7'; known: 0, 1"),
        (["--model", SMALL, "--epochs", "0"], "epochs"),
        (["--model", SMALL, "--epochs", "2", "--warmup-epochs", "3"], "warm-up of 3 epochs"),
        (["--model", SMALL, "--crop-scale", "0.9,0.1"], "crop_scale"),
        (["--model", SMALL, "--mixup", "-1"], "mixup"),
        (["--model", "pixels:8", "--dataset", "digits"], "pixels:8 has no weights to train"),
        (["--model", "kmeans", "--dataset", "digits"], "kmeans has no weights to train"),
        (["--resume", "absent"], "absent holds no fine-tuning"),
        (["--resume", "a", "--run", "b"], "give one of them"),
        (["--model", SMALL, "--run", "/dev/null/x"], "cannot write /dev/null/x"),
    ],
)
def test_mistakes__one_clear_line_and_exit_2(hjepa, arguments: list[str], part: str) -> None:
    done = hjepa("finetune", "--quiet", *arguments)
    assert (done.code, done.out) == (2, "")
    assert part in done.err
    assert done.err.count("\n") == 1

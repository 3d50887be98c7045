from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hjepa_pretrain.checks import build_settings, load_settings
from hjepa_pretrain.diagnostics.progress import ties_text

from hjepa_eval.cli import main
from hjepa_eval.config import parse_yaml
from hjepa_eval.errors import ConfigError
from hjepa_eval.metrics.intervals import wilson

TINY = [
    *("--set", "model.encoder_depth=3", "--set", "train.epochs=1", "--set", "data.max_samples=160"),
    *("--set", "train.batch_size=48", "--set", "diagnostics.bank=64", "--set", "train.compile=off"),
]


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", *arguments])
    return int(stop.value.code or 0)


def test_show_settings__is_a_yaml_file_that_explains_itself_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--config", "cifar10_cpu", "--show-settings") == 0
    text = capsys.readouterr().out
    assert "# share of images whose blocks lie on the lattice of 2x2 tokens" in text
    assert re.search(r"# multi_block: .*\n.*\[multi_block\|hierarchical\|random\]\n  type: \"multi_block\"", text)
    read = build_settings(parse_yaml(text, "shown"), "shown")
    assert read == load_settings("cifar10_cpu", [])


def test_show_settings__as_json_has_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--show-settings", "--json") == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown == load_settings("digits", []).model_dump(mode="json")


def test_set__what_is_set_replaces_what_a_preset_says_the_other_way() -> None:
    settings = load_settings("cifar10_cpu_masked", ["train.epochs=3", "masking.mask_ratio=0.5"])
    assert (settings.train.epochs, settings.train.minutes) == (3, None)
    assert (settings.masking.mask_ratio, settings.masking.context_tokens) == (0.5, None)
    with pytest.raises(ConfigError, match="found both"):
        load_settings("cifar10_cpu", ["train.epochs=3", "train.minutes=3"])


def test_pretrain__ends_with_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--out", str(tmp_path / "run"), *TINY) == 0
    said = capsys.readouterr()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    best = summary["best"]
    images = summary["measures"]["knn_images"]
    interval = wilson(round(best["knn"] * images), images)
    score = f"{100 * best['knn']:.1f} [{100 * interval.low:.1f}-{100 * interval.high:.1f}] of {images}"
    end = f"best kNN on held-out train images {score} (level {best['level']}, step {best['step']}{ties_text(best)})"
    assert f"{summary['steps']} steps" in said.out
    assert best["interval"][0] <= best["knn"] <= best["interval"][1]
    assert end in said.out
    assert "pretraining on digits, 160 of 1,442 images at 8x8 pixels, vit_tiny_patch2_8, into" in said.err
    last = [line for line in said.err.splitlines() if line.startswith("pretrain: 100.0%")]
    assert len(last) == 1
    assert f"loss {summary['losses']['loss']:.4f}" in last[0]
    assert "kNN " in last[0]


def test_resume__another_out_is_refused_and_the_step_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("--out", str(tmp_path / "run"), *TINY) == 0
    assert called("--resume", str(tmp_path / "run"), "--out", str(tmp_path / "other")) == 2
    assert "leave --out out" in capsys.readouterr().err
    (tmp_path / "run" / "summary.json").unlink()
    assert called("--resume", str(tmp_path / "run")) == 0
    assert re.search(r"going on after step 3 of 3", capsys.readouterr().err)


@pytest.mark.parametrize("placement", ["device", "loader"])
def test_pretrain__an_unreadable_image_is_named_in_one_line(
    cifar10_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], placement: str
) -> None:
    shutil.copytree(cifar10_sample, tmp_path / "images")
    damaged = sorted((tmp_path / "images" / "train" / "cat").glob("*.jpg"))[7]
    damaged.write_bytes(damaged.read_bytes()[:100])
    # An epoch of 10 whole batches sees each of the 400 images.
    settings = ("train.epochs=1", "train.batch_size=40", "train.compile=off", "diagnostics.bank=0")
    options = [word for each in (*settings, f"data.placement={placement}") for word in ("--set", each)]
    run = tmp_path / "run"
    assert called("--dataset", f"folder:{tmp_path}/images", "--out", str(run), *options, "--quiet") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hjepa: ")
    assert str(damaged) in line
    assert not (run / "summary.json").exists()
    assert (run / "config.json").exists() == (placement == "loader"), "images on the device are read before all else"


@pytest.mark.parametrize("folder", ["", "train"])
def test_pretrain__images_without_classes_will_do_and_knn_is_off_with_a_sentence(
    folder: str, tmp_path: Path, cifar10_sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat" / folder
    flat.mkdir(parents=True)
    for number, path in enumerate(sorted((cifar10_sample / "train").glob("*/*"))[:160]):
        (flat / f"{number:03d}{path.suffix}").write_bytes(path.read_bytes())
    run = tmp_path / "run"
    assert called("--dataset", f"folder:{tmp_path / 'flat'}", "--out", str(run), *TINY) == 0
    said = capsys.readouterr()
    assert "the images have no classes, so no kNN is measured and no best checkpoint chosen" in said.err
    assert "images of about 32x32 pixels are read at 8x8" in said.err
    assert "best kNN" not in said.out
    assert f"next: hjepa eval --model {run} --dataset NAME, of images with classes" in said.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"] is None
    assert all(rank > 0 for rank in summary["measures"]["rankme"])

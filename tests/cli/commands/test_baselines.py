"""Baselines of `hjepa eval`: untrained and raw pixels are in view unless the user says otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hjepa_eval.config import load
from hjepa_eval.evaluation.models.baselines import baselines_of
from hjepa_eval.evaluation.settings import EvalSettings

FEW = ("--dataset", "digits", "--max-samples", 250, "--episodes", 10, "--k", 5, "--c", 1)


def encoders(model: str, *baselines: str) -> list[str]:
    flags = {"baselines": list(baselines)} if baselines else {}
    return [model, *baselines_of(model, load(EvalSettings, flags=flags))]


@pytest.mark.parametrize(
    ("model", "beside"),
    [
        ("timm:vit_tiny_patch8_32?checkpoint=w.safetensors?levels=2", ["random:vit_tiny_patch8_32?levels=2"]),
        ("timm:local-dir:exported", []),
        ("random:vit_tiny_patch8_32", []),
        ("kmeans:8", []),
        ("mine.py:build", []),
    ],
)
def test_baselines__are_the_untrained_twin_where_there_is_one_and_pixels(model: str, beside: list[str]) -> None:
    assert encoders(model) == [model, *beside, "pixels:8"]


@pytest.mark.parametrize("model", ["pixels", "pixels:8", "pixels:16"])
def test_baselines__pixels_have_none(model: str) -> None:
    assert encoders(model) == [model]


def test_baselines__one_that_is_the_model_runs_once() -> None:
    assert encoders("pixels:8", "pixels:8", "kmeans", "kmeans") == ["pixels:8", "kmeans"]
    assert encoders("pixels:16", "pixels:8") == ["pixels:16", "pixels:8"]


def test_baselines__may_stand_after_commas_and_a_names_own_numbers_stay_with_it() -> None:
    assert encoders("mine.py:build", "pixels:8,kmeans", "pixels:4") == [
        "mine.py:build",
        "pixels:8",
        "kmeans",
        "pixels:4",
    ]
    several = encoders("mine.py:build", "random:vit_tiny_patch4_32?taps=2,4, 6,pixels:8")
    assert several == ["mine.py:build", "random:vit_tiny_patch4_32?taps=2,4,6", "pixels:8"]


def test_baselines__the_default_is_accepted_as_the_help_spells_it(hjepa) -> None:
    spelled = re.search(r"or none\s+\[default:\s+(\S+)\]", hjepa("eval", "--help").out)
    assert spelled is not None
    assert encoders("kmeans", spelled[1].removeprefix("random,")) == encoders("kmeans")
    assert load(EvalSettings, flags={"baselines": [spelled[1]]}).baselines == EvalSettings().baselines


def test_baselines__a_misspelt_one_is_told_a_name_that_eval_uses(hjepa) -> None:
    assert "did you mean 'pixels:8'?" in hjepa("eval", "--model", "kmeans", "--baselines", "pixel", *FEW).err


@pytest.mark.parametrize("value", ["none", ["none"], []])
def test_baselines__none_is_none(value: str | list[str]) -> None:
    settings = load(EvalSettings, flags={"model": "kmeans", "baselines": value})
    assert settings.baselines == ()
    assert baselines_of("kmeans", settings) == []


def test_baselines__a_twin_that_was_asked_for_and_is_not_there_is_an_error(hjepa) -> None:
    done = hjepa("eval", "--model", "kmeans:8", "--baselines", "random", *FEW)
    assert done.code == 2
    assert "kmeans:8 has no untrained twin" in done.err


def test_eval__a_run_is_shown_beside_itself_untrained_and_pixels_with_every_outcome(hjepa, digits_run: Path) -> None:
    done = hjepa("eval", "--model", digits_run, *FEW, "--shots", 1)
    assert done.code == 0, done.err
    records = [json.loads(path.read_text()) for path in Path("results").glob("*.json")]
    assert {record["model"]["name"] for record in records} == {str(digits_run), f"random:{digits_run}", "pixels:8"}
    assert len(records) == 9
    assert all(Path("results", record["predictions"]["file"]).is_file() for record in records)
    assert all(level["cost"]["gflop"] >= 0 for record in records for level in record["levels"])
    assert hjepa("eval", "--model", "pixels:8", *FEW, "--shots", 1, "--no-predictions", "--out", "few").code == 0
    assert len(list(Path("few").glob("*.json"))) == 3
    assert not list(Path("few").glob("*.npz"))
    assert "--no-predictions" in hjepa("eval", "--help").out
    assert "--no-predictions" not in hjepa("knn", "--help").out

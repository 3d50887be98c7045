"""`hjepa export`, and `--encoder` of the probes, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("warm_cache")


def test_export__the_folder_is_measured_like_the_run(hjepa, digits_run: Path) -> None:
    done = hjepa("export", digits_run, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["folder"] == "exports/digits_run-timm"
    assert set(said["bytes"]) == {"README.md", "SHA256SUMS", "config.json", "model.safetensors"}
    knn = ("--dataset", "digits", "--json", "--quiet")
    (exported,) = json.loads(hjepa("knn", "--model", "timm:local-dir:exports/digits_run-timm", *knn).out)
    (own,) = json.loads(hjepa("knn", "--model", digits_run, *knn).out)
    assert exported["model"]["weights"] == own["model"]["weights"]
    twin = hjepa("eval", "--model", "timm:local-dir:exports/digits_run-timm", "--baselines", "random")
    assert (twin.code, "has no untrained twin" in twin.err) == (2, True)
    assert [level["scores"] for level in exported["levels"]] == [level["scores"] for level in own["levels"]]


def test_export__prints_files_and_what_comes_next(hjepa, digits_run: Path) -> None:
    done = hjepa("export", digits_run, "--format", "torch", "--out", "there", "--encoder", "context")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "there/README.md",
        "there/SHA256SUMS",
        "there/model.pt2",
        "there/preprocessing.json",
    ]
    assert f"exporting the context encoder of {digits_run} to there" in done.err
    assert "next: hjepa eval --model timm:local-dir:exports/" in hjepa("export", digits_run).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere is no pretraining run and no checkpoint"),
        (("RUN", "--format", "tf"), "unknown export format 'tf'"),
        (("RUN", "--encoder", "both"), "unknown encoder branch 'both'"),
        (("RUN", "--out", "."), "is not empty"),
    ],
)
def test_export__mistakes_are_one_line(hjepa, digits_run: Path, arguments: tuple[str, ...], said: str) -> None:
    Path("mine.txt").write_text("mine")
    done = hjepa("export", *(str(digits_run) if each == "RUN" else each for each in arguments), "--quiet")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert said in done.err


@pytest.mark.parametrize("probe", ["linear", "knn", "fewshot", "lowshot", "extract"])
def test_encoder__context_is_the_plain_word_for_the_option_in_the_name(hjepa, digits_run: Path, probe: str) -> None:
    common = ("--dataset", "digits", "--max-samples", 100, "--json", "--quiet", "--level", 1)
    more = {"fewshot": ("--episodes", 20, "--queries", 5), "lowshot": ("--per-class", 2, "--draws", 1)}.get(probe, ())
    plain = json.loads(hjepa(probe, "--model", digits_run, "--encoder", "context", *common, *more).out)
    named = json.loads(hjepa(probe, "--model", f"{digits_run}?encoder=context", *common, *more).out)
    target = json.loads(hjepa(probe, "--model", digits_run, "--encoder", "target", *common, *more).out)
    if probe == "extract":
        assert [store["key"] for store in plain] == [store["key"] for store in named]
        assert all(store["forward_images"] == 0 for store in named)
        assert [store["key"] for store in plain] != [store["key"] for store in target]
        return
    (plain,), (named,), (target,) = plain, named, target
    assert plain["model"] == named["model"]
    for level in (*plain["levels"], *named["levels"]):
        del level["cost"], level["notes"]  # Times are the machine's of the moment.
    assert plain["levels"] == named["levels"]
    assert plain["model"]["name"] == f"{digits_run}?encoder=context"
    assert target["model"]["name"] == str(digits_run)
    assert plain["model"]["weights"] != target["model"]["weights"]


def test_encoder__of_what_has_none_is_one_error(hjepa) -> None:
    done = hjepa("linear", "--model", "pixels:8", "--dataset", "digits", "--encoder", "context")
    assert done.code == 2
    assert "--encoder context chooses between the two encoders of a pretraining run, and pixels:8 is none" in done.err
    assert "context" in hjepa("knn", "--help").out


def test_encoder__baselines_beside_the_model_have_no_branch(hjepa, digits_run: Path) -> None:
    done = hjepa(
        *("eval", "--model", digits_run, "--encoder", "context", "--baselines", "random", "--baselines", "pixels:8"),
        *("--max-samples", 100, "--episodes", 20, "--queries", 5, "--json", "--quiet"),
    )
    assert done.code == 0, done.err
    names = {record["model"]["name"] for record in json.loads(done.out)["records"]}
    assert names == {f"{digits_run}?encoder=context", f"random:{digits_run}", "pixels:8"}

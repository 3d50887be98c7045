"""The commands as typed, on real images, in this process."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from forked import Forked, finish

SMALL_VIT = "random:vit_tiny_patch8_32?taps=2,4,6"


def test_eval__prints_three_levels_and_the_second_call_reads_the_cache(hjepa, cifar10_sample: Path) -> None:
    arguments = ("eval", "--model", SMALL_VIT, "--dataset", "cifar10", "--root", cifar10_sample, "--episodes", 50)
    arguments += ("--baselines", "none")
    first = hjepa(*arguments)
    assert first.code == 0, first.err
    for column in ("kNN k=20", "linear", "5-way 1-shot", "5-way 5-shot", "block 2", "block 4", "block 6"):
        assert column in first.out
    records = [json.loads(path.read_text()) for path in sorted(Path("results").glob("*.json"))]
    assert [record["probe"] for record in records] == ["fewshot", "knn", "linear"]
    assert all(record["extraction"]["forward_images"] == 600 for record in records)
    assert all(len(record["levels"]) == 3 for record in records)
    assert Path("results/report.md").is_file()
    assert Path("results/levels.png").is_file()
    second = hjepa(*arguments, "--json")
    again = json.loads(second.out)["records"]
    assert all(record["extraction"]["forward_images"] == 0 for record in again)
    assert "no forward pass" in second.err
    assert "no forward pass" in Path("results/report.md").read_text()
    old = {(r["probe"], level["level"]): level["scores"] for r in records for level in r["levels"]}
    new = {(r["probe"], level["level"]): level["scores"] for r in again for level in r["levels"]}
    assert old == new


@pytest.mark.parametrize("probe", ["knn", "linear", "fewshot"])
def test_probes__every_accuracy_has_an_interval_and_a_count(hjepa, probe: str) -> None:
    done = hjepa(probe, "--model", "pixels:8", "--dataset", "digits", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    (record,) = json.loads(done.out)
    for score in record["levels"][0]["scores"]:
        assert score["low"] <= score["value"] <= score["high"]
        assert score["low"] < score["high"]
        assert score["num_samples"] == 355
    top = record["levels"][0]["scores"][0]["value"]
    assert top > (0.6 if probe == "fewshot" else 0.95)


def test_quiet__prints_the_table_and_what_makes_its_numbers_doubtful(hjepa, digits_run: Path) -> None:
    arguments = ("knn", "--model", digits_run, "--dataset", "digits", "--max-samples", 40, "--k", 3)
    assert "no baseline is in view" in hjepa(*arguments).out
    quiet = hjepa(*arguments, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert "no baseline" not in quiet.out
    assert "95 % interval" not in quiet.out
    assert quiet.out.startswith(f"{digits_run}, knn: accuracy is not above chance")


def test_knn__k_larger_than_the_train_set_is_clipped_and_said(hjepa, cifar10_sample: Path) -> None:
    done = hjepa("knn", "--model", "pixels:8", "--dataset", "cifar10", "--root", cifar10_sample, "--k", "20,1000")
    assert done.code == 0
    assert "1000" in done.out
    assert "400" in done.out


def test_level__picks_what_is_shown_and_stores_all(hjepa, cifar10_sample: Path) -> None:
    common = ("--model", SMALL_VIT, "--dataset", "cifar10", "--root", cifar10_sample, "--max-samples", 40)
    extracted = json.loads(hjepa("extract", "--level", 2, *common, "--json").out)
    assert [level["level"] for level in extracted[0]["levels"]] == [2]
    done = hjepa("knn", "--level", "0,1", "--level", "2", *common)
    assert "no forward pass" in done.err
    assert all(f"block {tap}" in done.out for tap in (2, 4, 6))


def test_options__flags_beat_environment_beats_yaml(hjepa, cifar10_sample: Path, monkeypatch, tmp_path: Path) -> None:
    Path("x.yaml").write_text(yaml.safe_dump({"model": "pixels:8", "dataset": "cifar10", "root": "nowhere", "k": [3]}))
    assert "under nowhere" in hjepa("knn", "--config", "x.yaml").err
    monkeypatch.setenv("HJEPA_DATA", str(cifar10_sample))
    done = hjepa("knn", "--config", "x.yaml", "--max-samples", 30)
    assert done.code == 0, done.err
    assert "kNN k=3" in done.out
    assert "under elsewhere" in hjepa("knn", "--config", "x.yaml", "--root", "elsewhere").err
    assert list((tmp_path / "cache").rglob("manifest.json")), "HJEPA_CACHE names the cache"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["knn"], "no --model given and no finished run under runs/"),
        (["knn", "--model", "pixels", "--dataset", "cifra10"], "did you mean 'cifar10'"),
        (["knn", "--model", "pixles"], "did you mean 'pixels:8'"),
        (["knn", "--model", "pixels", "--level", "2"], "unknown level of pixels '2'; known: 0"),
        (["knn", "--model", "pixels", "--k", "0"], "k.0"),
        (["eval", "--model", "pixels", "--baselines", "rnadom:x"], "unknown model 'rnadom:x'"),
        (["knn", "--model", "pixels", "--device", "meta"], "cannot be used"),
        (["knn", "--model", "random:mixer_s32_224"], "no intermediate features"),
        (["demo", "--out", "/dev/null"], "--out"),
        (["knn", "--model", "pixels", "--out", "/dev/null/x"], "--out"),
        (["knn", "--model", "pixels", "--set", "btach_size=3"], "did you mean 'batch_size'"),
        (["knn", "--model", "pixels", "--batch-size", "0", "--k", "many"], "k.0"),
        (["knn", "--model", "pixels", "--modle", "x"], "--model"),
        (["knn", "--model", "pixels", "--levels", "0"], "No such option: --levels (Possible options: --level)"),
        (["knn", "--model", "pixels", "--device", "cuda:99"], "hjepa doctor"),
        (["knn", "--model", "pixels", "--dataset", "cifar10"], "--download"),
        (["knn", "--config", "absent.yaml"], "absent.yaml"),
        (["kmn"], "knn"),
        (["report", "absent"], "no result file or folder absent"),
        (["report", "--format", "pdf"], "unknown format 'pdf'"),
        (["cache", "verify", "zzz"], "no store 'zzz'"),
        (["cache", "rm", "zzz"], "no store 'zzz'"),
        (["pretrain", "--config", "digts"], "did you mean 'digits'"),
        (["pretrain", "--set", "train.mintues=5"], "did you mean 'minutes'"),
        (["pretrain", "--resume", "absent"], "no run to go on with"),
        (["pretrain", "--show-settings", "--out", "x"], "--show-settings prints and stops; leave --out x out"),
        (["eval", "--model", "pixels", "--no-gallery", "--map", "umap"], "that --no-gallery leaves out"),
    ],
)
def test_mistakes__one_clear_line_and_exit_2(hjepa, arguments: list[str], part: str) -> None:
    done = hjepa(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert part in done.err
    assert done.err.startswith("hjepa: ")
    assert done.err.count("\n") == 1


def test_probes__refuse_a_damaged_store_and_extract_repairs_one_shard(hjepa) -> None:
    common = ("--model", "pixels:8", "--dataset", "digits")
    assert hjepa("extract", *common).code == 0
    shard = next(Path(os.environ["HJEPA_CACHE"]).rglob("train/*/*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    verified = hjepa("cache", "verify")
    assert verified.code == 2
    assert shard.name in verified.out
    refused = hjepa("knn", *common)
    assert refused.code == 2
    assert shard.name in refused.err
    assert "hjepa extract" in refused.err
    done = hjepa("extract", *common, "--json")
    assert f"repairing: {shard}" in done.err
    repaired = json.loads(done.out)
    assert {store["split"]: store["forward_images"] for store in repaired} == {"train": 1442, "test": 0}
    assert shard.read_bytes() == whole
    assert hjepa("cache", "verify").code == 0


def test_cache__lists_and_removes(hjepa) -> None:
    assert "hjepa extract makes one" in hjepa("cache", "ls").out
    hjepa("extract", "--model", "pixels:8", "--dataset", "digits", "--quiet")
    rows = json.loads(hjepa("cache", "ls", "--json").out)
    assert sorted((row["split"], row["images"]) for row in rows) == [("test", 355), ("train", 1442)]
    assert hjepa("cache", "path").out.strip() == os.environ["HJEPA_CACHE"]
    assert hjepa("cache", "rm", "digits").out.count("removed") == 2
    assert json.loads(hjepa("cache", "ls", "--json").out) == []


def test_report__reads_what_the_probes_wrote(hjepa) -> None:
    hjepa("knn", "--model", "pixels:8", "--dataset", "digits", "--quiet")
    for name, part in (("table", "kNN k=20"), ("md", "| kNN k=20 |"), ("csv", "model,weights"), ("json", '"tables"')):
        assert part in hjepa("report", "--format", name).out
    assert hjepa("report", "--format", "md", "--out", "x/table.md").code == 0
    assert "| pixels:8 | 0 |" in Path("x/table.md").read_text()


def test_listings_and_doctor__say_what_there_is(hjepa) -> None:
    assert "cifar10" in hjepa("datasets").out
    assert "random:NAME" in hjepa("models").out
    looked = json.loads(hjepa("models", SMALL_VIT, "--json").out)
    assert [level["grid"] for level in looked["levels"]] == [[4, 4], [2, 2], [1, 1]]
    topics = {finding["topic"]: finding for finding in json.loads(hjepa("doctor", "--json").out)}
    for topic in ("versions", "CUDA devices", "CPU", "--precision auto", "FAISS", "cache", "finished runs"):
        assert topics[topic]["found"]
    assert "hjepa demo" in topics["finished runs"]["advice"]


def test_ctrl_c__says_how_to_go_on_and_exits_130(cifar10_sample: Path, tmp_path: Path) -> None:
    words = ["-m", "hjepa_eval", "extract", "--model", "random:vit_base_patch4_32", "--batch-size", 8]
    process = Forked([*words, "--dataset", "cifar10", "--root", cifar10_sample])
    while not list((tmp_path / "cache").rglob("*.lock")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    errors, codes = finish(process)
    assert codes == [130], errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors


ENCODER_FILE = """
import torch
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level

class Filled(Encoder):
    name, settings = "filled", {}
    levels = (Level(0, "one number", 4, (1, 1)),)
    transform = Transform(8, 8)

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, images):
        return [self.value.expand(len(images), 1, 4)]

def nan():
    return Filled(float("nan"))

def constant():
    return Filled(1.0)
"""


@pytest.mark.parametrize("probe", ["knn", "linear", "fewshot"])
def test_probes__nan_features_are_an_error_and_constant_ones_a_note(hjepa, probe: str) -> None:
    Path("filled.py").write_text(ENCODER_FILE)
    broken = hjepa(probe, "--model", "filled.py:nan", "--dataset", "digits", "--quiet")
    assert broken.code == 2
    assert "NaN" in broken.err
    assert broken.err.count("\n") == 1
    constant = hjepa(probe, "--model", "filled.py:constant", "--dataset", "digits", "--quiet")
    assert constant.code == 0, constant.err
    assert "no information" in constant.out


def test_eval__few_shot_that_the_data_cannot_fill_is_left_out_with_a_note(hjepa) -> None:
    done = hjepa("eval", "--model", "pixels:8", "--dataset", "digits", "--max-samples", 100, "--baselines", "pixels:4")
    assert done.code == 0
    assert done.err.count("few-shot is left out: 5-way 1-shot episodes") == 1, "once for all encoders"
    assert done.out.count("protocol logreg: ") == 1
    assert "protocol" not in done.err, "the table says it"
    assert "protocol few-shot" not in done.out
    assert "kNN k=20" in done.out
    assert len(list(Path("results").glob("*.json"))) == 4


def test_eval__encoders_that_differ_in_an_option_have_rows_and_files_of_their_own(hjepa) -> None:
    common = ("--dataset", "digits", "--max-samples", 250, "--episodes", 10, "--shots", 1)
    done = hjepa(
        "eval",
        "--model",
        "random:vit_tiny_patch2_8?taps=1,2",
        "--baselines",
        "random:vit_tiny_patch2_8?taps=2,2",
        *common,
    )
    assert done.code == 0, done.err
    lines = [line.strip() for line in done.out.splitlines()]
    # A table too wide for the terminal comes in parts, each with the models' names.
    parts = sum(line.startswith("level ") for line in lines)
    for spec in ("random:vit_tiny_patch2_8?taps=1,2", "random:vit_tiny_patch2_8?taps=2,2"):
        assert lines.count(spec) == parts
    assert len(list(Path("results").glob("*.json"))) == 6


def test_user_file__edited_code_does_not_find_the_old_features(hjepa) -> None:
    file = Path("filled.py")
    file.write_text(ENCODER_FILE)
    common = ("extract", "--model", "filled.py:constant", "--dataset", "digits", "--json", "--quiet")
    assert json.loads(hjepa(*common).out)[0]["forward_images"] == 1442
    assert json.loads(hjepa(*common).out)[0]["forward_images"] == 0
    file.write_text(ENCODER_FILE.replace("1, 4)]", "1, 4) * 2]"))
    assert json.loads(hjepa(*common).out)[0]["forward_images"] == 1442


@pytest.mark.parametrize("arguments", [[], ["cache"]])
def test_bare_command__shows_the_help(hjepa, arguments: list[str]) -> None:
    done = hjepa(*arguments)
    assert done.code == 2
    assert done.err.startswith("Usage: hjepa")
    assert done.err.count("\n") > 8

"""Probe commands: protocols, paired statistics, seeds, joined levels, per-sample outcomes, comparisons of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("warm_cache")
VIT = "random:vit_tiny_patch2_8?taps=1,2"
DIGITS = ("--model", VIT, "--dataset", "digits", "--max-samples", 400, "--quiet")


def record_of(done) -> dict:
    assert done.code == 0, done.err
    (record,) = json.loads(done.out)
    return record


@pytest.mark.parametrize(
    ("command", "protocol", "name"),
    [
        ("knn", "lightly", "lightly-knn"),
        ("knn", "majority", "majority-knn"),
        ("linear", "ridge", "ridge"),
        ("linear", "dinov2-logreg", "dinov2-logreg"),
        ("linear", "clip-logreg", "clip-logreg"),
        ("linear", "mae-linprobe-cached", "mae-linprobe-cached"),
        ("linear", "ijepa-linear-cached", "ijepa-linear-cached"),
        ("lowshot", "knn-lowshot", "knn-lowshot"),
        ("lowshot", "ridge-lowshot", "ridge-lowshot"),
    ],
)
def test_protocols__are_named_and_confess_their_deviations(hjepa, command: str, protocol: str, name: str) -> None:
    more = ("--per-class", 20) if command == "lowshot" else ()
    record = record_of(hjepa(command, "--protocol", protocol, *DIGITS, *more, "--json"))
    assert record["protocol"] == name
    assert record["deviations"]
    assert all(level["scores"][0]["value"] > 0.15 for level in record["levels"])
    shown = hjepa("report", "results", "--format", "md")
    assert f"protocol {name}: {record['deviations'][0]}" in shown.out.replace("\\", "")


@pytest.mark.parametrize("command", ["knn", "linear", "fewshot"])
def test_levels__are_compared_in_pairs_and_one_is_chosen_without_test(hjepa, command: str) -> None:
    extra = ("--episodes", 200, "--shots", 1) if command == "fewshot" else ()
    record = record_of(hjepa(command, *DIGITS, *extra, "--fuse", "concat", "--json"))
    assert [level["fused"] for level in record["levels"]] == [[], [], [0, 1]]
    assert record["levels"][2]["width"] == sum(level["width"] for level in record["levels"][:2])
    assert [(c["first"], c["second"]) for c in record["comparisons"]] == [(1, 0), (2, 0), (2, 1)]
    for pair in record["comparisons"]:
        values = [
            next(s["value"] for s in record["levels"][pair[end]]["scores"] if s["headline"])
            for end in ("first", "second")
        ]
        assert pair["difference"] == pytest.approx(values[0] - values[1], abs=1e-6)
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert 0 <= pair["p_value"] <= pair["p_holm"] <= 1
    (choice,) = record["choices"]
    assert set(choice["held_out"]) == {"0", "1"}
    assert choice["held_out"][str(choice["level"])] == max(choice["held_out"].values())
    assert choice["oracle_value"] >= choice["value"]


def test_seeds__give_means_with_all_values(hjepa) -> None:
    each = [record_of(hjepa("knn", *DIGITS, "--seed", seed, "--json"))["levels"][0] for seed in (0, 1, 2)]
    values = [next(s["value"] for s in level["scores"] if s["headline"]) for level in each]
    record = record_of(hjepa("knn", *DIGITS, "--seeds", "0,1,2", "--json"))
    score = next(s for s in record["levels"][0]["scores"] if s["headline"])
    assert record["seeds"] == [0, 1, 2]
    assert score["values"] == values
    assert score["value"] == pytest.approx(np.mean(values))
    assert score["std"] == pytest.approx(np.std(values, ddof=1))
    assert len(set(values)) > 1, "untrained weights differ from seed to seed"
    assert score["interval"] == "crossed t 95% over samples and 3 seeds"
    widths = [s["high"] - s["low"] for level in each for s in level["scores"] if s["headline"]]
    # Some of a single run's width is that of its seed, which several seeds average out; that of the images stays.
    assert score["high"] - score["low"] > 0.9 * min(widths)
    same = record_of(hjepa("knn", "--model", "pixels:8", *DIGITS[2:], "--seeds", "0,1", "--json"))["levels"][0][
        "scores"
    ]
    one = record_of(hjepa("knn", "--model", "pixels:8", *DIGITS[2:], "--json"))["levels"][0]["scores"]
    assert [s["high"] for s in same] == pytest.approx([s["high"] for s in one], abs=0.01), (
        "equal seeds are not certainty"
    )
    counts = record["levels"][0]["per_class"].values()
    assert sum(right for right, _ in counts) == pytest.approx(sum(values) * 355)
    assert sum(total for _, total in counts) == 3 * 355


def test_predictions__let_anybody_redo_the_statistics(hjepa) -> None:
    record = record_of(hjepa("linear", *DIGITS, "--predictions", "--json"))
    (path,) = Path("results").glob("*.npz")
    assert json.loads(next(Path("results").glob("*.json")).read_text())["predictions"]["file"] == path.name
    content = np.load(path)
    for level in record["levels"]:
        right = content[f"level{level['level']}/outcome/top1"]
        assert (right == (content[f"level{level['level']}/prediction/top1"] == content["labels"])).all()
        assert right.mean() == pytest.approx(level["scores"][0]["value"])
        assert {
            name: (right[content["labels"] == int(name)].sum(), (content["labels"] == int(name)).sum())
            for name in level["per_class"]
        } == {name: tuple(pair) for name, pair in level["per_class"].items()}


def test_compare__two_models_on_the_same_images(hjepa) -> None:
    for model, folder in ((VIT, "a"), ("pixels:8", "b")):
        for command in (("knn",), ("fewshot", "--episodes", 300, "--shots", 5)):
            done = hjepa(*command, *DIGITS[2:], "--model", model, "--predictions", "--out", folder)
            assert done.code == 0, done.err
    shown = hjepa("compare", "a", "b")
    assert shown.code == 0, shown.err
    assert VIT in shown.out
    pairs = json.loads(hjepa("compare", "a", "b", "--json").out)
    knn = next(pair for pair in pairs if pair["probe"] == "kNN k=20" and pair["why"] == "chosen levels")
    assert knn["difference"] < -0.3, "pixels are far ahead of an untrained ViT"
    assert knn["p_value"] < 1e-6
    assert knn["values"][0] - knn["values"][1] == pytest.approx(knn["difference"])
    back = json.loads(hjepa("compare", "b", "a", "--json").out)
    assert {round(pair["difference"], 9) for pair in back} == {round(-pair["difference"], 9) for pair in pairs}
    refused = hjepa("compare", "a", "a/" + next(Path("a").glob("*knn*.json")).name)
    assert refused.code == 0, "a model may meet itself"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("--max-samples", 100), "nothing to compare"),
        (("--k", 7), "nothing to compare"),
    ],
)
def test_compare__refuses_what_does_not_belong_together(hjepa, change: tuple, part: str) -> None:
    for folder, more in (("a", ()), ("b", change)):
        assert hjepa("knn", *DIGITS, *more, "--predictions", "--out", folder).code == 0
    done = hjepa("compare", "a", "b")
    assert done.code == 2
    assert part in done.err
    assert "same" in done.err


def test_compare__records_without_outcomes_do_not_block_the_others(hjepa) -> None:
    for folder in ("a", "b"):
        assert hjepa("knn", *DIGITS, "--predictions", "--out", folder).code == 0
        assert hjepa("linear", *DIGITS, "--protocol", "ridge", "--out", folder).code == 0
    pairs = json.loads(hjepa("compare", "a", "b", "--json").out)
    assert {pair["probe"] for pair in pairs} == {"kNN k=20"}
    assert hjepa("knn", *DIGITS, "--readout", "max", "--predictions", "--out", "a").code == 0
    # Another readout is another model: the mean, in both folders, against the max.
    again = hjepa("compare", "a", "b")
    assert again.code == 0
    assert "(mean)" in again.out
    assert "(max)" in again.out


def test_records__of_other_lists_and_superclasses_do_not_overwrite_each_other(hjepa) -> None:
    for number, odd in enumerate(("13579", "97531")):
        Path(f"{number}").mkdir()
        Path(f"{number}/coarse.json").write_text(json.dumps({"even": list("02468"), "odd": list(odd)}))
        assert hjepa("knn", *DIGITS, "--superclasses", f"{number}/coarse.json").code == 0
    assert hjepa("knn", *DIGITS).code == 0
    assert len(list(Path("results").glob("*.json"))) == 3


def test_fuse__rows_of_other_levels_stay_apart(hjepa) -> None:
    vit = "random:vit_tiny_patch2_8?taps=1,2,3"
    common = ("--model", vit, *DIGITS[2:], "--fuse", "concat")
    assert hjepa("knn", *common, "--level", "0,1").code == 0
    assert hjepa("linear", *common, "--protocol", "ridge").code == 0
    rows = json.loads(hjepa("report", "results", "--format", "json").out)["tables"][0]["rows"]
    joined = {row["level_name"]: [name for name, cell in row["cells"].items() if cell] for row in rows if row["joined"]}
    assert joined == {"levels 0+1 joined": ["kNN k=20"], "levels 0+1+2 joined": ["linear ridge"]}


def test_knn__temperatures_come_from_one_search(hjepa) -> None:
    record = record_of(hjepa("knn", *DIGITS, "--temperature", "0.07,0.5", "--json"))
    further = [s for s in record["levels"][0]["scores"] if s["parameters"].get("temperature") == 0.5]
    assert [score["parameters"]["k"] for score in further] == [10, 20, 100, 200]
    assert not any(score["headline"] for score in further)


def test_compare__needs_the_outcomes_and_the_file_that_was_written(hjepa) -> None:
    assert hjepa("knn", *DIGITS, "--out", "a").code == 0
    assert "--predictions" in hjepa("compare", "a", "a").err
    assert hjepa("knn", *DIGITS, "--predictions", "--out", "b").code == 0
    (path,) = Path("b").glob("*.npz")
    path.write_bytes(path.read_bytes() + b" ")
    assert "not the file" in hjepa("compare", "b", "b").err
    path.unlink()
    assert "cannot read" in hjepa("compare", "b", "b").err


def test_knn__leave_one_out_touches_train_only(hjepa) -> None:
    record = record_of(hjepa("knn", *DIGITS, "--leave-one-out", "--json"))
    assert record["levels"][0]["scores"][0]["num_samples"] == 400
    assert record["choices"] == []
    assert "leave-one-out" in hjepa("report", "results").out


def test_knn__euclidean_and_an_approximate_index_are_said(hjepa) -> None:
    record = record_of(hjepa("knn", *DIGITS, "--metric", "euclidean", "--json"))
    assert record["parameters"]["metric"] == "euclidean"
    assert "metric euclidean instead of cosine" in record["deviations"]
    record = record_of(hjepa("knn", *DIGITS, "--index", "hnsw", "--json"))
    assert "exact search" in " ".join(record["levels"][0]["notes"])


def test_linear__readouts_are_chosen_on_the_held_out_part(hjepa) -> None:
    record = record_of(hjepa("linear", *DIGITS, "--protocol", "ridge", "--readouts", "max,grid", "--json"))
    for level in record["levels"]:
        tried = level["chosen"]["readouts_held_out"]
        assert set(tried) == {"mean", "max", "grid"}
        assert tried[level["chosen"]["readout"]] == max(tried.values())
    alone = record_of(hjepa("linear", *DIGITS, "--protocol", "ridge", "--readout", "grid", "--json"))
    assert alone["extraction"]["forward_images"] == 0, "one pass filled the stores of all readouts"
    score = {
        r: level["scores"][0]["value"] for r, level in (("grid", alone["levels"][1]), ("all", record["levels"][1]))
    }
    assert record["levels"][1]["chosen"]["readout"] == "grid"
    assert score["all"] == score["grid"]


def test_knn__without_two_samples_of_a_class_no_level_is_chosen(hjepa) -> None:
    record = record_of(hjepa("knn", *DIGITS, "--max-samples", 10, "--json"))
    assert record["choices"] == []
    assert record["comparisons"]


def test_superclasses__have_a_column_of_their_own(hjepa) -> None:
    Path("coarse.json").write_text(json.dumps({"even": list("02468"), "odd": list("13579")}))
    record = record_of(hjepa("linear", *DIGITS, "--superclasses", "coarse.json", "--json"))
    for level in record["levels"]:
        coarse, fine = (next(s for s in level["scores"] if s["metric"] == metric) for metric in ("superclass", "top1"))
        assert coarse["value"] >= fine["value"]
        assert coarse["headline"]
    assert "superclasses" in hjepa("report", "results").out
    Path("coarse.json").write_text(json.dumps({"even": list("02468"), "odd": list("1357")}))
    done = hjepa("linear", *DIGITS, "--superclasses", "coarse.json")
    assert done.code == 2
    assert "left out: 9" in done.err


def test_lowshot__several_draws_and_sizes(hjepa) -> None:
    record = record_of(
        hjepa(
            "lowshot",
            *DIGITS,
            "--per-class",
            "1,5",
            "--fraction",
            0.1,
            "--draws",
            3,
            "--protocol",
            "knn-lowshot",
            "--json",
        )
    )
    scores = record["levels"][1]["scores"]
    assert [score["parameters"]["labels"] for score in scores] == ["10 % labels", "1 per class", "5 per class"]
    for score in scores:
        assert len(score["values"]) == 3
        assert score["value"] == pytest.approx(np.mean(score["values"]))
    sizes = record["levels"][1]["chosen"]
    assert sizes["5 per class"]["train images"] == [50] * 3
    assert scores[2]["value"] > scores[1]["value"]
    too_many = hjepa("lowshot", *DIGITS, "--per-class", 400)
    assert too_many.code == 2
    assert "use 1 to" in too_many.err


def test_lowshot__an_official_list_picks_its_images(hjepa, cifar10_sample: Path) -> None:
    names = [f"{path.parent.name}/{path.name}" for path in sorted((cifar10_sample / "train").glob("*/*"))[::8]]
    Path("list.txt").write_text("\n".join(names))
    common = ("--model", "pixels:8", "--dataset", "cifar10", "--root", cifar10_sample, "--list", "list.txt")
    record = record_of(hjepa("lowshot", *common, "--protocol", "knn-lowshot", "--json", "--quiet"))
    (score,) = record["levels"][0]["scores"]
    assert score["parameters"]["labels"].startswith("list.txt ")
    assert record["levels"][0]["chosen"][score["parameters"]["labels"]]["train images"] == [50]
    Path("list.txt").write_text("cat/nowhere.jpg")
    done = hjepa("lowshot", *common)
    assert done.code == 2
    assert "nowhere.jpg" in done.err


def test_fewshot__classifiers_have_columns_of_their_own(hjepa) -> None:
    for classifier in ("prototype", "simpleshot-cl2n", "logreg"):
        done = hjepa("fewshot", *DIGITS, "--classifier", classifier, "--episodes", 100, "--shots", 5)
        assert done.code == 0, done.err
    shown = hjepa("report", "results", "--format", "csv").out
    assert all(f"few-shot-{name}" in shown for name in ("prototype", "simpleshot-cl2n", "logreg"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("knn", "--protocol", "dno"), "did you mean 'dino'"),
        (("linear", "--protocol", "ridgee"), "did you mean 'ridge'"),
        (("linear", "--protocol", "ridge", "--c", "1"), "--c is for the protocol logreg"),
        (("knn", "--protocol", "majority", "--temperature", "0.1"), "--temperature has no part"),
        (("knn", "--superclasses", "nowhere.json"), "cannot read the superclasses"),
        (("lowshot", "--list", "nowhere.txt"), "cannot read the image list"),
        (("linear", "--c", "1", "--readouts", "max"), "one C leaves nothing"),
        (("linear", "--views", "2"), "--views is for protocols that train by SGD"),
        (("fewshot", "--classifier", "svm"), "classifier"),
        (("lowshot", "--fraction", "2"), "fraction"),
        (("fewshot", "--superclasses", "coarse.json"), "No such option"),
        (("knn", "--select-on-test"), "No such option"),
    ],
)
def test_probes__bad_options_end_before_any_work(hjepa, arguments: tuple, part: str) -> None:
    done = hjepa(*arguments, "--model", VIT, "--dataset", "digits")
    assert done.code == 2
    assert part in done.err
    assert not list(Path.cwd().rglob("*.safetensors"))

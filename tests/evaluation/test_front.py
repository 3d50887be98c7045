"""The Python face: the same numbers as the command, results as tables and files, errors that a caller can catch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

import hjepa_eval as hjepa

FEW = {"max_samples": 100, "baselines": "none", "quiet": True}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> hjepa.Result:
    cache = tmp_path_factory.mktemp("cache")
    return hjepa.evaluate("pixels:8", "digits", probes=["knn", "linear"], k=[5], cache_dir=cache, **FEW)


def test_face__names_are_held_to_the_page_and_loaded() -> None:
    page = (ROOT / "docs/python.md").read_text().partition("## What there is")[2]
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == set(hjepa.__all__) == set(dir(hjepa))
    assert all(getattr(hjepa, name) is not None for name in hjepa.__all__)


def test_face__importing_loads_nothing_else() -> None:
    code = "import sys, hjepa_eval\nprint([name for name in sys.modules if name.startswith(('hjepa_eval.', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]"


def test_face__an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_it"):
        hjepa.nothing_of_it  # noqa: B018


def test_evaluate__gives_the_commands_numbers(request: pytest.FixtureRequest, result: hjepa.Result) -> None:
    program = request.getfixturevalue("hjepa")  # The package has that name here.
    done = program("knn", "--model", "pixels:8", "--dataset", "digits", "--max-samples", 100, "--k", 5, "--json")
    (record,) = json.loads(done.out)
    ours = result.records[0].model_dump(mode="json")
    for part in ("protocol", "parameters", "model", "dataset"):
        assert ours[part] == record[part]
    assert [level["scores"] for level in ours["levels"]] == [level["scores"] for level in record["levels"]]
    assert ours["provenance"]["command"].startswith(
        "hjepa_eval.evaluate('pixels:8', 'digits', probes=['knn', 'linear']"
    )


def test_evaluate__writes_nothing_unless_told(result: hjepa.Result) -> None:
    assert not Path("results").exists()
    hjepa.evaluate("pixels:8", "digits", probes=["knn"], out="here", gallery=False, **FEW)
    assert [record.probe for record in hjepa.read_records("here")] == ["knn"]


def test_result__is_a_table_in_terminal_and_notebook(result: hjepa.Result) -> None:
    assert "pixels:8" in str(result)
    assert "kNN k=5" in str(result)
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert "<th>kNN k=5</th><th>linear</th>" in html
    assert repr(result) == "<Result of kNN, linear on 1 models; print it for the table>"


def test_result__names_are_escaped_in_a_notebook(result: hjepa.Result) -> None:
    record = result.records[0]
    nasty = record.model_copy(update={"model": record.model.model_copy(update={"name": "<script>x</script>"})})
    from hjepa_eval.report.formats.notebook import html_table

    assert "<script>" not in html_table([nasty])


@pytest.mark.parametrize("name", ["a.html", "a.md", "a.csv", "a.json", "a.tex", "a.txt"])
def test_result__is_saved_by_the_ending(result: hjepa.Result, name: str, tmp_path: Path) -> None:
    assert "pixels:8" in result.save(tmp_path / name).read_text()


def test_result__a_folder_holds_records_with_outcomes(result: hjepa.Result, tmp_path: Path) -> None:
    result.save(tmp_path / "folder")
    assert len(hjepa.read_records(tmp_path / "folder")) == 2
    assert "kNN k=5" in hjepa.report(tmp_path / "folder", format="md")
    again = hjepa.compare(tmp_path / "folder", result)
    assert {pair.difference for pair in again.pairs} == {0.0}


def test_result__becomes_rows(result: hjepa.Result) -> None:
    pytest.importorskip("pandas")
    frame, full = result.to_pandas(), result.to_pandas(full=True)
    assert set(frame["probe"]) == {"knn", "linear"}
    assert list(frame)[:4] == ["model", "dataset", "probe", "level"]
    assert len(frame.columns) == 10 < len(full.columns)
    assert len(frame) == len(full)


def test_evaluate__takes_an_encoder_and_two_datasets(result: hjepa.Result) -> None:
    splits = (hjepa.load_dataset("digits", "train"), hjepa.load_dataset("digits", "test"))
    held = hjepa.evaluate(hjepa.load_encoder("pixels:8"), splits, probes=["knn"], k=[5], **FEW)
    assert held.records[0].levels[0].scores == result.records[0].levels[0].scores


def test_evaluate__takes_any_module_with_its_layers() -> None:
    import torch

    from hjepa_eval.datasets.transform import Transform

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3))
    small = Transform(size=16, resize=16)
    held = hjepa.evaluate(module, "digits", probes=["knn"], k=[5], layers=["0", "2"], transform=small, **FEW)
    assert [level.width for level in held.records[0].levels] == [8, 16]
    assert held.records[0].levels[0].scores[0].value > 0.15
    with pytest.raises(hjepa.HjepaError):
        hjepa.evaluate(module, "digits", probes=["knn"], layers=["3"], transform=small, **FEW)


def test_compare__of_several_is_what_the_command_prints(
    result: hjepa.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hjepa_eval.cli import main

    others = [hjepa.evaluate(f"pixels:{size}", "digits", probes=["knn"], k=[5], **FEW) for size in (4, 2)]
    folders = [str(entry.save(tmp_path / str(place))) for place, entry in enumerate([result, *others])]
    compared = hjepa.compare(result, *others)
    assert compared.pairs == ()
    assert [name in str(compared) for name in ("pixels:8", "pixels:4", "pixels:2")] == [True] * 3
    assert "<pre>" in compared._repr_html_()
    assert len(compared.to_pandas()) == 3
    with pytest.raises(SystemExit) as stop:
        main(["compare", *folders])
    assert stop.value.code == 0
    assert capsys.readouterr().out.rstrip("\n") == str(compared)
    with pytest.raises(hjepa.HjepaError, match="one model"):
        hjepa.compare(result)


def test_compare__pairs_two_results_on_the_same_images(result: hjepa.Result) -> None:
    other = hjepa.evaluate("pixels:4", "digits", probes=["knn"], k=[5], **FEW)
    compared = hjepa.compare(result, other)
    assert compared.pairs[0].models == ("pixels:8", "pixels:4")
    assert "pixels:4" in compared._repr_html_()
    assert "kNN k=5" in str(compared)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"probes": ["kn"]}, "did you mean 'knn'"),
        ({"probes": []}, "probes is empty"),
        ({"ks": 3}, "unknown key 'ks'"),
        ({"json": True}, "json is for the command line"),
        ({"layers": ["blocks.1"]}, "layers and transform are for modules"),
        ({"dataset": ()}, "two ImageDataset objects"),
    ],
)
def test_evaluate__mistakes_are_one_line(arguments: dict, words: str) -> None:
    with pytest.raises(hjepa.HjepaError, match=words):
        hjepa.evaluate("pixels:8", **{"dataset": "digits", "probes": ["knn"], "quiet": True, **arguments})


@pytest.mark.parametrize(
    ("words", "function"),
    [
        ("knn --model pixels:8 --dataset digits", "evaluation.evaluate.evaluate"),
        ("linear --model pixels:8 --dataset digits", "evaluation.evaluate.evaluate"),
        ("fewshot --model pixels:8 --dataset digits", "evaluation.evaluate.evaluate"),
        ("eval --model pixels:8 --dataset digits", "evaluation.evaluate.evaluate"),
        ("extract --model pixels:8 --dataset digits", "evaluation.front.extract"),
        ("profile --model pixels:8 --dataset digits", "evaluation.front.profile"),
        ("search a.png --model pixels:8 --dataset digits", "evaluation.front.search"),
        ("compare a b", "evaluation.front.compare"),
        ("report a", "report.written.report"),
        ("import a.npz --name mine", "evaluation.models.imported.import_features"),
    ],
)
def test_commands__call_the_face(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, words: str, function: str
) -> None:
    program = request.getfixturevalue("hjepa")
    name = function.rpartition(".")[2]
    home = "hjepa_eval.report.written" if name == "report" else hjepa._HOMES[name]
    assert f"hjepa_eval.{function}" == f"{home}.{name}"

    def called(*_: object, **__: object) -> None:
        raise hjepa.HjepaError("the face was called")

    monkeypatch.setattr(f"hjepa_eval.{function}", called)
    done = program(*words.split())
    assert (done.code, done.err) == (2, "hjepa: the face was called\n")


def test_evaluate__several_models_are_refused_where_one_is_taken() -> None:
    with pytest.raises(hjepa.HjepaError, match="2 models are given"):
        hjepa.extract(["pixels:8", "pixels:4"], "digits", quiet=True)

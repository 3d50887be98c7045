"""`hjepa report` and `hjepa compare` as commands: what they keep, refuse, write and open."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import SUPPORT
from made_records import made_at, record_of

from hjepa_eval.cli import main
from hjepa_eval.results.files import read_record, write_record
from hjepa_eval.results.gallery import Gallery, LevelMap, Neighbourhoods, write_gallery
from hjepa_eval.results.outcomes import SampleOutcomes, write_outcomes
from hjepa_eval.results.records import Predictions, Record

OLD = SUPPORT / "records" / "schema_1_knn.json"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hjepa(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the program in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def written(*records: Record, folder: str = "results") -> Path:
    for record in records:
        write_record(record, Path(folder))
    return Path(folder)


def models_of(text: str) -> set[str]:
    return {row["model"] for row in json.loads(text)["scores"]}


def test_report__dataset_and_model_keep_a_part_and_baselines_stay(hjepa: Run) -> None:
    names = ("runs/a", "runs/b", "random:runs/a", "random:runs/b", "pixels")
    written(*(record_of(model=name) for name in names), record_of(model="runs/a", dataset="cifar10"))
    kept = models_of(hjepa("report", "--format", "json", "--dataset", "digits", "--model", "runs/a")[1])
    assert kept == {"runs/a", "random:runs/a", "pixels"}, "the untrained twin of another model goes with it"
    both = hjepa("report", "--format", "json", "--model", "runs/a", "--model", "runs/b", "--dataset", "digits")[1]
    assert models_of(both) == set(names)
    assert models_of(hjepa("report", "--format", "json", "--model", "pixels")[1]) == {"pixels"}
    only = hjepa("report", "--format", "csv", "--dataset", "cifar10")[1]
    assert {row["dataset"] for row in csv.DictReader(only.splitlines())} == {"cifar10"}


def test_report__a_name_that_fits_nothing_lists_what_there_is(hjepa: Run) -> None:
    written(record_of(), record_of(dataset="cifar10"))
    code, _, said = hjepa("report", "--dataset", "cifar")
    assert (code, said.count("\n")) == (2, 1)
    assert "did you mean 'cifar10'" in said
    assert "known: digits, cifar10" in said or "known: cifar10, digits" in said
    code, _, said = hjepa("report", "--model", "runs/dem")
    assert code == 2
    assert "known: runs/demo" in said


def test_report__records_in_subfolders_only_are_named_with_the_command(hjepa: Run) -> None:
    for number in range(4):
        written(record_of(), folder=f"results/run {number}")
    code, _, said = hjepa("report")
    assert (code, said.count("\n")) == (2, 1)
    assert "no result records in results itself, but in results/run 0, results/run 1, results/run 2 and 1 more" in said
    assert said.endswith("as in hjepa report 'results/run 0' 'results/run 1' 'results/run 2'\n")
    written(record_of(), folder="runs/demo/results")
    assert "as in hjepa report runs/demo/results" in hjepa("report", "runs")[2]
    Path("runs/demo/config.json").write_text("{}")
    assert hjepa("report", "runs/demo")[0] == 0, "a demo's folder stands for the records below"


@pytest.mark.parametrize("name", ["table", "md", "csv", "json", "latex", "html"])
def test_report__refuses_two_versions_of_a_protocol_and_says_whose(hjepa: Run, name: str) -> None:
    folder = written(record_of(), record_of(model="other", version=2))
    files = {read_record(file).model.name: file for file in folder.glob("*.json")}
    code, out, said = hjepa("report", "--format", name)
    assert (code, out, said.count("\n")) == (2, "", 1)
    for part in (f"version 1 of runs/demo in {files['runs/demo']}", f"version 2 of other in {files['other']}"):
        assert part in said


def test_report__versions_of_different_datasets_do_not_meet(hjepa: Run) -> None:
    written(record_of(), record_of(dataset="cifar10", version=2))
    assert hjepa("report", "--format", "md")[0] == 0


@pytest.mark.parametrize(
    ("file", "start"), [("a.tex", "% needs"), ("a.MD", "**digits"), ("a.txt", "Accuracy in percent")]
)
def test_report__the_ending_chooses_the_format(hjepa: Run, file: str, start: str) -> None:
    written(record_of())
    code, out, said = hjepa("report", "--out", f"new/{file}")
    assert (code, out, said) == (0, "", f"written: new/{file}\n")
    assert Path("new", file).read_text().startswith(start)


def test_report__a_file_has_no_colours_even_when_stdout_is_a_terminal(
    hjepa: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(record_of())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[" in hjepa("report")[1]
    assert hjepa("report", "--out", "a.txt")[0] == 0
    assert "\x1b[" not in Path("a.txt").read_text()


def test_report__writes_into_no_device_or_pipe_and_says_so(hjepa: Run) -> None:
    written(record_of())
    os.mkfifo("pipe")
    code, out, said = hjepa("report", "--format", "md", "--out", "pipe")
    assert (code, out) == (2, "")
    assert said == "hjepa: cannot write pipe: it is no regular file; choose another with --out\n"
    assert Path("pipe").is_fifo()


def test_report__unwritable_output_leaves_nothing(hjepa: Run) -> None:
    written(record_of())
    Path("file").write_text("in the way")
    code, _, said = hjepa("report", "--out", "file/a.tex")
    assert (code, said.count("\n")) == (2, 1)
    assert "choose another with --out" in said
    assert Path("file").read_text() == "in the way"


@pytest.mark.parametrize("name", ["table", "md", "csv", "json", "latex"])
def test_report__records_of_schema_1_stand_beside_new_ones(hjepa: Run, name: str) -> None:
    old = read_record(OLD)
    new = record_of(values=(0.5, 0.75)).model_copy(update={"dataset": old.dataset})
    code, out, said = hjepa("report", written(new), OLD, "--format", name)
    assert code == 0, said
    assert "pixels:8" in out
    assert ("23.8" in out) or ("0.238" in out)


def test_report__the_same_file_twice_is_shown_once_and_an_older_one_is_named(hjepa: Run) -> None:
    new = written(made_at(record_of(), "2026-02-01T00:00:00+00:00"), record_of(model="pixels", values=(0.2,)))
    once = hjepa("report", new)[1]
    assert hjepa("report", new, new)[1] == once
    old = written(made_at(record_of(values=(0.1, 0.2)), "2026-01-01T00:00:00+00:00"), folder="old")
    shown = hjepa("report", old, new)[1]
    assert "75.0*" in shown
    said = "one of 2026-01-01T00:00:00+00:00 with other numbers is left out"
    assert said in shown
    for name in ("csv", "json"):
        code, _, beside = hjepa("report", old, new, "--format", name)
        assert (code, beside.count(said), beside.count("\n")) == (0, 1, 1)
    assert hjepa("report", old, new, "--format", "md")[2] == "", "a table says it itself"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Stand in for the page: keep what it is called with, write one line."""
    called: list[tuple] = []

    def write_page(located, galleries, path: Path, *, profiles=()) -> Path:
        called.append((list(located), list(galleries), path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<!doctype html>")
        return path

    module = types.ModuleType("hjepa_eval.report.page.page")
    module.write_page = write_page  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hjepa_eval.report.page.page", module)
    return called


def gallery_of(store: str) -> Gallery:
    index, none = np.zeros(1, np.int64), np.zeros((1, 1, 1), np.int64)
    return Gallery(
        model="runs/demo",
        dataset="digits",
        train_store="a",
        test_store=store,
        class_names=("zero",),
        levels=((0, "block 1"),),
        images={("test", 0): b"png", ("train", 0): b"png"},
        map=LevelMap(index, index, np.zeros((1, 1, 2), np.float32), "PCA", np.zeros((1, 2), np.float32)),
        neighbourhoods=Neighbourhoods(index, index, ("drawn",), none, none, none.astype(np.float32)),
    )


def test_report_html__lies_beside_the_records_with_their_galleries(hjepa: Run, pages: list[tuple]) -> None:
    folder = written(record_of())
    write_gallery(gallery_of("b"), folder)
    write_gallery(gallery_of("other images"), folder)
    code, out, said = hjepa("report", "--format", "html")
    assert (code, out, said) == (0, "", "written: results/report.html\n")
    ((located,), (gallery,), _) = pages.pop()
    assert (located.record.model.name, located.folder, gallery.test_store) == ("runs/demo", folder, "b")
    (file,) = folder.glob("*.json")
    assert hjepa("report", file, "--format", "html")[2] == "written: results/report.html\n"
    assert hjepa("report", "--out", "page.html")[2] == "written: page.html\n"
    assert Path("page.html").is_file()


def test_report_html__refuses_two_datasets_and_says_how_to_choose(hjepa: Run, pages: list[tuple]) -> None:
    written(record_of(), record_of(dataset="cifar10"))
    code, _, said = hjepa("report", "--format", "html")
    assert (code, said.count("\n"), pages) == (2, 1, [])
    assert "cannot mix datasets" in said
    assert "name one with --dataset" in said
    assert hjepa("report", "--format", "html", "--dataset", "digits")[0] == 0
    assert [each.record.dataset.name for each in pages[0][0]] == ["digits"]


def test_report_open__opens_the_page_in_the_browser_and_nothing_else(
    hjepa: Run, pages: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) < 2)
    written(record_of())
    assert hjepa("report", "--format", "html", "--open")[2].count("\n") == 1
    assert opened == [Path("results/report.html").resolve().as_uri()]
    assert "no browser can be opened here; open results/report.html" in hjepa("report", "--format", "html", "--open")[2]
    for arguments in (("--open",), ("--open", "--format", "md"), ("--open", "--out", "a.tex")):
        code, out, said = hjepa("report", *arguments)
        assert (code, out, said.count("\n")) == (2, "", 1)
        assert "add --format html" in said
    assert len(opened) == 2


def with_outcomes(record: Record, folder: str, right: list[list[bool]]) -> None:
    count = len(right[0])
    outcomes = {(level, "top1 k=20"): np.array(each) for level, each in enumerate(right)}
    path = Path(folder, record.file_name).with_suffix(".npz")
    path.parent.mkdir(exist_ok=True)
    write_outcomes(SampleOutcomes(np.arange(count), np.zeros(count, np.int64), outcomes, {}), path)
    file = Predictions(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    write_record(record.model_copy(update={"predictions": file}), Path(folder))


def test_compare__every_format_has_the_same_numbers(hjepa: Run) -> None:
    with_outcomes(record_of(values=(0.5, 0.75)), "a", [[True, False] * 10, [True] * 15 + [False] * 5])
    with_outcomes(record_of(model="pixels", values=(0.25,)), "b", [[False] * 15 + [True] * 5])
    (pair,) = json.loads(hjepa("compare", "a", "b", "--format", "json")[1])
    assert hjepa("compare", "a", "b", "--json")[1] == hjepa("compare", "a", "b", "--format", "json")[1]
    assert (pair["models"], pair["why"], pair["values"]) == (["runs/demo", "pixels"], "level 0", [0.5, 0.25])
    assert pair["difference"] == 0.25
    (row,) = csv.DictReader(hjepa("compare", "a", "b", "--format", "csv")[1].splitlines())
    assert (row["first_model"], row["second_model"], row["first_level"]) == ("runs/demo", "pixels", "0")
    for name in ("difference", "low", "high", "p_value", "p_holm"):
        assert float(row[name]) == pair[name]
    assert (float(row["first_value"]), float(row["second_value"])) == (0.5, 0.25)
    for name in ("table", "md", "latex"):
        shown = hjepa("compare", "a", "b", "--format", name)[1]
        assert all(part in shown for part in ("runs/demo", "pixels", "50.0", "+25.0", "McNemar exact")), name
    assert hjepa("compare", "a", "b", "--out", "c.tex")[2] == "written: c.tex\n"
    assert Path("c.tex").read_text().startswith("% needs")


def test_compare__leaves_the_baselines_of_two_evaluations_aside(hjepa: Run) -> None:
    for folder, model in (("a", "runs/a"), ("b", "runs/b")):
        with_outcomes(
            record_of(model=model, values=(0.5, 0.75)), folder, [[True, False] * 10, [True] * 15 + [False] * 5]
        )
        for baseline in (f"random:{model}", "pixels:8"):
            with_outcomes(record_of(model=baseline, values=(0.25,)), folder, [[False] * 15 + [True] * 5])
    code, out, said = hjepa("compare", "a", "b", "--json")
    assert (code, said) == (0, "")
    assert [(pair["models"], pair["why"]) for pair in json.loads(out)] == [
        (["runs/a", "runs/b"], f"level {level}") for level in (0, 1)
    ]
    with_outcomes(record_of(model="runs/c", values=(0.5,)), "b", [[True, False] * 10])
    code, out, said = hjepa("compare", "a", "b", "--json")
    assert (code, said) == (0, "")
    assert {row["model"] for row in json.loads(out)} == {"runs/a", "runs/b", "runs/c"}, "three are ranked"


def test_compare__refuses_two_formats_at_once_and_unknown_ones(hjepa: Run) -> None:
    assert "--json and --format md" in hjepa("compare", "a", "b", "--json", "--format", "md")[2]
    assert "unknown format 'html'" in hjepa("compare", "a", "b", "--format", "html")[2]

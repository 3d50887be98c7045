"""How an evaluation ends: with a page of its own records, in a folder that may hold others."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import SUPPORT
from forked import Forked

from hjepa_eval.cli.console import open_page, where_it_is
from hjepa_eval.errors import ResultError
from hjepa_eval.evaluation import request
from hjepa_eval.results.files import find_galleries, find_records, read_record
from hjepa_eval.results.gallery import Gallery, LevelMap, Neighbourhoods, write_gallery

DIGITS = ("--model", "pixels:8", "--dataset", "digits", "--episodes", 200, "--baselines", "pixels:4")


def make_gallery(model: str, train_store: str, test_store: str) -> Gallery:
    index, none = np.arange(2), np.empty((1, 0, 3), np.int64)
    return Gallery(
        model=model,
        dataset="digits",
        train_store=train_store,
        test_store=test_store,
        class_names=("0", "1"),
        levels=((0, "8x8 pixels"),),
        images={("test", 0): b"a", ("test", 1): b"b"},
        map=LevelMap(index, index, np.zeros((1, 2, 2), np.float32), "PCA", np.zeros((1, 2), np.float32)),
        neighbourhoods=Neighbourhoods(index[:0], index[:0], (), none, none, np.empty((1, 0, 3), np.float32)),
    )


def test_eval__ends_with_the_page_and_says_where_it_is(hjepa, page) -> None:
    assert hjepa("knn", "--model", "pixels:2", "--dataset", "digits").code == 0  # A record that is none of eval's.
    done = hjepa("eval", *DIGITS, "--predictions")
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert lines[-1] == "report: results/report.html (also report.md, levels.png)"
    assert Path("results/report.md").is_file()
    probes = ("knn", "linear", "fewshot")
    expected = [f"{model} {probe} results" for model in ("pixels:8", "pixels:4") for probe in probes]
    shown = [line for line in Path("results/report.html").read_text().splitlines() if not line.startswith("gallery")]
    assert shown == expected
    assert len(find_records([Path("results")])) == 7
    numbered = [line for line in lines if line.startswith("[")]
    count = len(numbered)
    assert [line.split()[0] for line in numbered] == [f"[{place}/{count}]" for place in range(1, count + 1)]
    for part in ("extract pixels:8, digits train: 1,442 images, ", "knn, pixels:4: ", "report: "):
        assert sum(part in line for line in numbered) == 1
    assert "pixels:4" in done.out


def test_eval__records_on_stdout_are_those_on_disk_with_their_outcomes(hjepa, page) -> None:
    done = hjepa("eval", *DIGITS, "--predictions", "--json")
    written = {record.file_name: record for record in find_records([Path("results")])}
    printed = json.loads(done.out)["records"]
    assert len(printed) == len(written) == 6
    for record in printed:
        assert (Path("results") / record["predictions"]["file"]).is_file()
    assert [record["probe"] for record in printed] == ["knn", "linear", "fewshot"] * 2


def test_eval__quiet_prints_the_result_and_nothing_else(hjepa, page) -> None:
    done = hjepa("eval", *DIGITS, "--quiet", "--json")
    assert (done.code, done.err) == (0, "")
    assert len(json.loads(done.out)["summary"]) == 2 * len(("kNN", "linear", "1-shot", "5-shot"))


def test_eval__a_report_that_cannot_be_written_loses_no_record_and_no_table(hjepa, page, monkeypatch) -> None:
    def write_page(located: Sequence, galleries: Sequence, path: Path, *, profiles: Sequence) -> Path:
        raise ResultError(f"cannot write {path}: it is a folder; choose another folder with --out")

    monkeypatch.setattr(page, "write_page", write_page)
    done = hjepa("eval", *DIGITS, "--quiet", "--open")
    assert done.code == 2
    assert done.err == "hjepa: cannot write results/report.html: it is a folder; choose another folder with --out\n"
    assert "pixels:4" in done.out
    assert len(find_records([Path("results")])) == 6
    assert Path("results/report.md").is_file()


@pytest.mark.parametrize("opens", [True, False])
def test_open__shows_the_page_or_says_that_it_cannot(hjepa, page, monkeypatch, opens: bool, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or opens)
    done = hjepa("eval", *DIGITS, "--open")
    assert done.code == 0
    assert asked == [(tmp_path / "results/report.html").as_uri()]
    last = "report: results/report.html (also report.md, levels.png)"
    advice = "hjepa: no browser can be opened here; open results/report.html yourself"
    assert done.err.splitlines()[-1] == (last if opens else advice)


def test_open__an_error_of_the_browser_is_one_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(address: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", fail)
    open_page(Path("a b/report.html"))
    assert capsys.readouterr().err == "hjepa: no browser can be opened here; open a b/report.html yourself\n"


def test_galleries__only_those_of_the_records_are_read(hjepa) -> None:
    hjepa("knn", "--model", "pixels:8", "--dataset", "digits")
    (record,) = find_records([Path("results")])
    own = make_gallery("pixels:8", record.extraction.train_store, record.extraction.test_store)
    write_gallery(own, Path("results"))
    write_gallery(replace(own, model="another"), Path("results"))
    write_gallery(replace(own, train_store="0" * 64), Path("results"))
    assert find_galleries([Path("results")], [record]) == []
    write_gallery(own, Path("results"))
    Path("results/old__digits__00000000.gallery.safetensors").write_bytes(b"damaged")
    assert [one.model for one in find_galleries([Path("results")], [record])] == ["pixels:8"]
    assert find_galleries([Path("results")], []) == []
    (Path("results") / own.file_name).write_bytes(b"damaged")
    with pytest.raises(ResultError, match="cannot read the gallery"):
        find_galleries([Path("results")], [record])
    said: list[ResultError] = []
    assert find_galleries([Path("results")], [record], damaged=said.append) == []
    assert len(said) == 1


@pytest.mark.parametrize("damaged", ["gallery.safetensors", "npz"])
def test_report__damaged_files_beside_records_are_a_line_each_and_the_page_goes_on(hjepa, page, damaged: str) -> None:
    hjepa("knn", "--model", "pixels:8", "--dataset", "digits", "--predictions")
    (record,) = find_records([Path("results")])
    write_gallery(
        make_gallery("pixels:8", record.extraction.train_store, record.extraction.test_store), Path("results")
    )
    clean = hjepa("report", "results", "--format", "html")
    assert clean.err == "written: results/report.html\n"
    (file,) = Path("results").glob(f"*.{damaged}")
    file.write_bytes(b"damaged")
    done = hjepa("report", "results", "--format", "html")
    assert done.code == 0, done.err
    warning, written = done.err.splitlines()
    assert warning.startswith("hjepa: left out of the page: ")
    assert str(file) in warning
    assert written == "written: results/report.html"
    assert Path("results/report.html").read_text().startswith("pixels:8 knn")


def test_where_it_is__names_the_page_and_what_lies_beside_it() -> None:
    paths = [Path("out", name) for name in ("report.html", "report.md", "levels.png")]
    assert where_it_is(paths) == "report: out/report.html (also report.md, levels.png)"


class InTerminal:
    """The program in a real pseudo-terminal; stdout goes to a pipe."""

    def __init__(self, *arguments: object) -> None:
        master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "OMP_NUM_THREADS": "1"}
        self.process = Forked([SUPPORT / "quick_page.py", *arguments], env=environment, stdin=slave, stderr=slave)
        os.close(slave)
        self.master, self.seen = master, ""
        self.running = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while found := os.read(self.master, 4096):
                self.seen += found.decode(errors="replace")
                if "%" in self.seen:  # A stage has reported.
                    self.running.set()
        except OSError:  # The other end is closed.
            self.running.set()

    def finish(self) -> tuple[int, str, str]:
        """Return exit code, stdout, and what the terminal got."""
        out, _ = self.process.communicate(timeout=300)
        self._reader.join(timeout=300)
        os.close(self.master)
        return self.process.returncode, out, self.seen


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_eval__in_a_real_terminal_is_live_and_leaves_a_summary_and_a_clean_terminal() -> None:
    code, out, seen = InTerminal(
        "eval", "--model", "pixels:8", "--dataset", "digits", "--episodes", 200, "--json"
    ).finish()
    assert code == 0, seen
    assert json.loads(out)["records"][0]["probe"] == "knn"
    text = plain(seen)
    for part in (
        "· few-shot",
        "· report",
        " stages   0:0",
        "protocol dino-knn: ",
        "\nreport: results/report.html (also",
    ):
        assert part in text
    summary = text[text.rindex("✓ pixels:8") :]
    assert "✓ report" in summary
    assert re.search(r"\n\d+ stages in ", summary)
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1
    assert seen.index("\x1b[?25l") < seen.index("\x1b[?25h")


def test_ctrl_c__in_a_real_terminal_gives_the_cursor_back_and_advice(cifar10_sample: Path) -> None:
    arguments = ("--model", "random:vit_base_patch4_32", "--dataset", "cifar10", "--root", cifar10_sample)
    started = InTerminal("eval", *arguments, "--batch-size", 8)
    assert started.running.wait(timeout=240)
    started.process.send_signal(signal.SIGINT)
    code, out, seen = started.finish()
    assert (code, out) == (130, ""), seen
    text = plain(seen)
    assert text.endswith("run the same command again to go on\n")
    assert "✗ extract train" in text
    assert "Traceback" not in text
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


@pytest.mark.slow
def test_demo__has_its_report_beside_the_run_and_its_records_below(hjepa, page, monkeypatch) -> None:
    # The demo's own settings, on fewer images and after fewer steps.
    given_values = request.given_values
    monkeypatch.setattr(request, "given_values", lambda *a, **k: {**given_values(*a, **k), "max_samples": 200})
    monkeypatch.setattr("hjepa_eval.cli.commands.demo.FAST", ("train.minutes=0.02",))
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    done = hjepa("demo", "--fast", "--out", "d", "--open")
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == "report: d/report.html (also report.md, levels.png)"
    assert asked == [Path("d/report.html").absolute().as_uri()]
    shown = Path("d/report.html").read_text().splitlines()
    assert sum(line.endswith(" knn d/results") for line in shown) == 4
    assert all(read_record(path).dataset.name == "digits" for path in Path("d/results").glob("*.json"))

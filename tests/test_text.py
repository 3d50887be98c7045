"""Names of data on a terminal, in Markdown, LaTeX, CSV: nothing of them acts, nothing of them is lost."""

from __future__ import annotations

import csv
import io

import pytest

from hjepa_eval.cli.console import say_error
from hjepa_eval.report.formats.tidy import csv_text
from hjepa_eval.results.text import csv_field, latex_text, markdown_text, one_line, visible

PWN = "\x1b]0;pwn\x07\x1b[2Jx"
TURNED = "a\u202egnp.exe\u2066b\u200f"


@pytest.mark.parametrize("function", [visible, one_line, markdown_text, latex_text, csv_field])
@pytest.mark.parametrize("name", [PWN, TURNED, "\x9b2J", "a\x00b", "\udcff", "\u2028next"])
def test_text__nothing_unseen_is_left(function: object, name: str) -> None:
    shown = function(name)  # type: ignore[operator]
    assert all(character.isprintable() for character in shown)
    shown.encode()


def test_visible__unseen_characters_are_escapes_and_others_stay() -> None:
    assert visible(PWN) == r"\x1b]0;pwn\x07\x1b[2Jx"
    assert visible(TURNED) == r"a\u202egnp.exe\u2066b\u200f"
    assert visible("a\tb\nc \u00e9 \u65e5 \U0001f600") == "a\tb\nc \u00e9 \u65e5 \U0001f600"
    assert one_line(" a\n\n b\t") == "a b"


@pytest.mark.parametrize("name", ["=cmd()", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_csv__a_formula_begins_with_a_quotation_mark(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"model": name}])))
    assert row["model"].startswith("'")


@pytest.mark.parametrize("text", ["-3", "+0.5", "1e-4", "-inf", "runs/demo", "0.5;-0.5"])
def test_csv__numbers_and_names_stay_as_they_are(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"model": text, "delta": -0.25}])))
    assert (row["model"], row["delta"]) == (text, "-0.25")


def test_say_error__moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(f"no images in class {PWN}\nof {TURNED}")
    assert capsys.readouterr().err == f"hjepa: no images in class {visible(PWN)} of {visible(TURNED)}\n"

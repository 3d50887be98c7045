"""What a terminal shows at the end: a few lines, then a table that a screen of 80 x 24 holds."""

from __future__ import annotations

import sys

import pytest
from made_records import record_of

from hjepa_eval.cli.commands import probes
from hjepa_eval.evaluation.settings import EvalSettings
from hjepa_eval.report.formats.terminal import brief
from hjepa_eval.report.tables.legend import MOST_LINES
from hjepa_eval.report.tables.selection import select_records
from hjepa_eval.results.records import Record

PROBES = ("knn", "linear", "fewshot")


@pytest.fixture
def records() -> list[Record]:
    return [
        record_of(probe, model=model) for model in ("runs/demo", "random:runs/demo", "pixels:8") for probe in PROBES
    ]


def test_brief__the_table_comes_last_and_fits_a_screen(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = brief(select_records(records), more="more: --verbose").splitlines()
    start = lines.index("more: --verbose") + 1
    assert start <= MOST_LINES + 2
    assert len(lines) - start <= 23
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "pixels:8" in "".join(lines[-5:])
    assert "McNemar" not in "".join(lines)


def test_brief__is_for_terminals_and_verbose_is_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not probes.is_brief(EvalSettings())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert probes.is_brief(EvalSettings())
    assert not probes.is_brief(EvalSettings(verbose=True))

"""The page of promises is what the marks of the tests say, and every promise has a test."""

from __future__ import annotations

import runpy

from folders import ROOT

MADE = runpy.run_path(str(ROOT / "docs" / "write_documents.py"))


def test_documents__the_page_is_made_from_the_tests() -> None:
    assert MADE["PAGE"].read_text() == MADE["page"](), "run python docs/write_documents.py"


def test_documents__every_row_has_a_test_and_no_test_names_another() -> None:
    assert MADE["collect"](ROOT / "tests").keys() == MADE["ROWS"].keys()

"""Rounding is the same in every report: sentences, tables in all formats, pictures' texts and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_page import located_of
from made_records import pair_of, record_of

from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.report.formats.pairs import PAIR_FORMATS
from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.tables.rounding import p_equals, points, points_within
from hjepa_eval.report.tables.selection import select_records
from hjepa_eval.report.tables.statements import statements
from hjepa_eval.results.records import LevelComparison


@pytest.mark.parametrize(
    ("difference", "shown"), [(-0.0004, "0.0"), (0.0004, "0.0"), (0.0, "0.0"), (-0.082, "-8.2"), (1.0, "+100.0")]
)
def test_points__have_a_sign_unless_they_round_to_zero(difference: float, shown: str) -> None:
    assert points(difference) == shown


def test_points_within__a_narrow_interval_has_two_places() -> None:
    assert points_within(0.0012, -0.00001, 0.0024) == ("+0.12", "0.00", "+0.24")
    assert points_within(0.012, -0.0001, 0.024) == ("+1.2", "0.0", "+2.4")


def test_p_equals__tiny_ones_are_a_bound() -> None:
    assert [p_equals(p) for p in (0.0156, 1e-5)] == ["= 0.016", "< 0.0001"]


def test_every_report__rounds_a_narrow_interval_alike(tmp_path: Path) -> None:
    pair = LevelComparison(
        score="top1 k=20",
        first=1,
        second=0,
        difference=0.0012,
        low=-0.00001,
        high=0.0024,
        interval="bootstrap 95%",
        test="McNemar exact",
        p_value=0.5,
        p_holm=0.5,
    )
    record = record_of().model_copy(update={"comparisons": (pair,)})
    assert "level 1 - level 0 +0.12 [0.00 to +0.24]" in statements(select_records([record]))[0]
    assert "| +0.12 | 0.00 to +0.24 |" in FORMATS["md"]([record])
    assert "level 1 - level 0 +0.12 [0.00 to +0.24]" in FORMATS["latex"]([record])
    # The page: cell, sentence.
    located = located_of(tmp_path)
    narrow = located.record.model_copy(update={"comparisons": (pair,)})
    page = build_page([type(located)(narrow, tmp_path)], [])
    assert 'title="+0.12 [0.00 to +0.24] over level 0"' in page
    assert "level 1 - level 0 +0.12 [0.00 to +0.24]" in page


@pytest.mark.parametrize("name", ["table", "md", "latex"])
def test_compare__rounds_as_the_sentences_do(name: str) -> None:
    pair = pair_of(values=(0.5, 0.5), difference=-0.0004, ends=(-0.002, 0.00004))
    shown = PAIR_FORMATS[name]([pair])
    assert "-0.04" in shown
    assert "-0.20 to 0.00" in shown

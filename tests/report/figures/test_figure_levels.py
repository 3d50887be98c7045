from __future__ import annotations

import pytest
from made_tables import cell, row, table

from hjepa_eval.report.figures.levels import draw_column, legend, level_pictures

TABLE = table(
    row("run", 0, cell(0.50, 0.45, 0.56), cell(0.60, 0.5, 0.7)),
    row("run", 1, cell(0.75, 0.70, 0.77), None),
    row("run", 2, cell(0.875, 0.70, 0.90), None, joined=True),
    row("pixels", 0, cell(0.25, 0.20, 0.30), None),
    columns=("kNN k=20", "linear"),
)


def test_draw_column__a_line_per_model_with_its_intervals() -> None:
    (panel,) = draw_column(TABLE, 0).axes
    (bars,) = panel.containers
    line, _, (upright,) = bars.lines
    assert list(line.get_ydata()) == [50.0, 75.0]
    assert line.get_xdata() == pytest.approx([0, 1], abs=0.05)
    assert [list(segment[:, 1]) for segment in upright.get_segments()] == [
        pytest.approx([45.0, 56.0]),
        pytest.approx([70.0, 77.0]),
    ]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0", "1"]


def test_draw_column__one_level_and_levels_joined_go_across_with_a_band() -> None:
    (panel,) = draw_column(TABLE, 0).axes
    across = {line.get_label(): line for line in panel.lines if line.get_linestyle() in ("--", ":")}
    assert {name: (line.get_ydata()[0], line.get_linestyle()) for name, line in across.items()} == {
        "run, levels joined": (87.5, ":"),
        "pixels": (25.0, "--"),
    }
    bands = [(band.get_y(), band.get_y() + band.get_height()) for band in panel.patches]
    assert bands == [pytest.approx((70.0, 90.0)), pytest.approx((20.0, 30.0))]
    assert panel.get_xlabel() == "level (0 is the finest)\ndashed: one level, dotted: joined"


def test_draw_column__models_that_lack_the_column_are_absent() -> None:
    (panel,) = draw_column(TABLE, 1).axes
    assert panel.get_legend_handles_labels()[1] == ["run"]
    assert "dotted" not in panel.get_xlabel()


def test_legend__names_each_model_with_the_colour_of_its_line() -> None:
    assert legend(TABLE) == [("run", "var(--series-1)"), ("pixels", "var(--series-2)")]
    pictures = level_pictures(TABLE)
    assert "stroke:var(--series-2," in pictures[0].svg
    assert "var(--series-2," not in pictures[1].svg


def test_level_pictures__say_every_number() -> None:
    first, second = level_pictures(TABLE)
    assert (first.title, second.title) == ("kNN k=20", "linear")
    assert first.text == (
        "kNN k=20 on digits: 1,000 train and 200 test images: accuracy in percent, 95 % interval. "
        "run: level 0 50.0 (45.0 to 56.0), level 1 75.0 (70.0 to 77.0) and levels joined 87.5 (70.0 to 90.0). "
        "pixels: level 0 25.0 (20.0 to 30.0)."
    )
    assert "pixels" not in second.text

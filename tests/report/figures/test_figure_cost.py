from __future__ import annotations

from typing import Any

import pytest
from made_tables import cell, row, table

from hjepa_eval.report.figures.cost import _points, cost_pictures, draw_cost
from hjepa_eval.report.tables.table import Table
from hjepa_eval.results.records import CostEntry


def cost(gflop: float, milliseconds: float | None = None, device: str = "cpu") -> CostEntry:
    return CostEntry(gflop=gflop, parameters=1, milliseconds=milliseconds, batch=64, device=device, precision="bf16")


def panel_of(found: Table, measure: Any = "gflop", condition: str = "") -> Any:
    return draw_cost(_points(found, 0, measure, condition), measure).axes[0]


NEAR = table(
    row("run", 0, cell(0.5, 0.4, 0.6), cost=cost(1.0, 2.0)),
    row("run", 1, cell(0.75, 0.7, 0.8), cost=cost(4.0, 3.0)),
    row("run", 2, cell(0.8, 0.7, 0.9), cost=cost(4.5), joined=True),
    row("pixels", 0, cell(0.25, 0.2, 0.3), cost=cost(0.0)),
    row("old", 0, cell(0.375, 0.2, 0.4)),
)


def test_draw_cost__a_line_per_model_through_its_numbered_levels() -> None:
    panel = panel_of(NEAR)
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines]
    assert drawn == [([1.0, 4.0], [50.0, 75.0]), ([4.5], [80.0]), ([0.0], [25.0])]
    assert [(text.get_text(), text.xy) for text in panel.texts] == [
        ("0", (1.0, 50.0)),
        ("1", (4.0, 75.0)),
        ("+", (4.5, 80.0)),
        ("0", (0.0, 25.0)),
    ]
    assert (panel.get_xscale(), panel.get_xlabel()) == ("linear", "GFLOP per image")


@pytest.mark.parametrize(("most", "scale"), [(5.0, "linear"), (5.1, "log")])
def test_draw_cost__is_logarithmic_beyond_a_factor_of_five(most: float, scale: str) -> None:
    rows = [row("run", level, cell(0.5, 0.4, 0.6), cost=cost(gflop)) for level, gflop in enumerate((1.0, most))]
    assert panel_of(table(*rows)).get_xscale() == scale


def test_draw_cost__what_costs_nothing_is_a_line_across_a_logarithmic_axis() -> None:
    rows = [row("run", level, cell(0.5, 0.4, 0.6), cost=cost(gflop)) for level, gflop in enumerate((0.01, 20.0))]
    panel = panel_of(table(*rows, row("pixels", 0, cell(0.25, 0.2, 0.3), cost=cost(0.0))))
    (across,) = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert list(across.get_ydata()) == [25.0, 25.0]
    assert panel.get_xlabel() == "GFLOP per image, logarithmic (dashed: none)"
    panel.figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in panel.get_xticklabels()]
    assert {"0.01", "0.1", "1", "10"} <= set(ticks)
    assert not any("$" in tick for tick in ticks)


@pytest.mark.parametrize(("most", "scale"), [(0.99, "linear"), (9.9, "log")])
def test_draw_cost__raw_pixels_do_not_push_encoders_into_a_corner(most: float, scale: str) -> None:
    rows = [row("run", n, cell(0.5, 0.4, 0.6), cost=cost(1.0, ms)) for n, ms in enumerate((0.35, 0.67, most))]
    pixels = row("pixels:8", 0, cell(0.25, 0.2, 0.3), cost=cost(0.0, 0.0004))
    panel = panel_of(table(*rows, pixels), "milliseconds", "cpu, bf16, batch 64")
    assert panel.get_xscale() == scale
    run = panel.lines[0].get_transform().transform([(0.35, 0.0), (most, 0.0)])[:, 0]
    assert run[1] - run[0] > 0.5 * panel.bbox.width
    last = panel.lines[-1]
    if scale == "log":
        assert (last.get_linestyle(), list(last.get_ydata())) == ("--", [25.0, 25.0])
        assert panel.get_xlabel() == "ms per image, logarithmic (dashed: almost none)"
    else:
        assert list(last.get_xdata()) == [0.0004], "a straight axis has a place for it"


def test_draw_cost__a_cheaper_model_of_several_levels_keeps_its_place() -> None:
    cheap = [row("small", n, cell(0.5, 0.4, 0.6), cost=cost(g)) for n, g in enumerate((0.001, 0.002))]
    dear = [row("large", n, cell(0.5, 0.4, 0.6), cost=cost(g)) for n, g in enumerate((1.0, 2.0))]
    panel = panel_of(table(*cheap, *dear))
    assert [list(line.get_xdata()) for line in panel.lines] == [[0.001, 0.002], [1.0, 2.0]]


def test_cost_pictures__say_the_numbers_and_what_is_left_out() -> None:
    (picture,) = cost_pictures(NEAR, "gflop")
    assert picture.title == "kNN k=20"
    assert picture.text == (
        "kNN k=20: accuracy in percent at GFLOP per image. run: level 0 50.0 at 1, level 1 75.0 at 4 and levels joined "
        "80.0 at 4.5. pixels: level 0 25.0 at 0. Left out, for their cost was not measured: old."
    )


def test_cost_pictures__times_of_different_devices_are_not_in_one_picture() -> None:
    one = row("run", 0, cell(0.5, 0.4, 0.6), cost=cost(1.0, 2.0))
    other = row("far", 0, cell(0.5, 0.4, 0.6), cost=cost(1.0, 0.5, device="H100"))
    pictures = cost_pictures(table(one, other), "milliseconds")
    assert [picture.title for picture in pictures] == [
        "kNN k=20, cpu, bf16, batch 64",
        "kNN k=20, H100, bf16, batch 64",
    ]
    assert "run: level 0 50.0 at 2. Left out, for their cost was not measured so: far." in pictures[0].text
    assert len(cost_pictures(table(one, other), "gflop")) == 1


def test_cost_pictures__there_are_none_without_costs() -> None:
    untimed = table(row("run", 0, cell(0.5, 0.4, 0.6), cost=cost(1.0)), row("old", 0, cell(0.5, 0.4, 0.6)))
    assert cost_pictures(untimed, "milliseconds") == []
    assert cost_pictures(table(row("old", 0, cell(0.5, 0.4, 0.6))), "gflop") == []
    # A column that only a model without cost has.
    mixed = table(
        row("run", 0, cell(0.5, 0.4, 0.6), None, cost=cost(1.0)),
        row("old", 0, None, cell(0.5, 0.4, 0.6)),
        columns=("kNN k=20", "linear"),
    )
    assert [picture.title for picture in cost_pictures(mixed, "gflop")] == ["kNN k=20"]

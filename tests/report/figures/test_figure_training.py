from __future__ import annotations

from typing import Any

import pytest

from hjepa_eval.report.figures.training import CURVES, curve_lines, draw_curve, robust_range, training_pictures

ROWS: list[dict[str, Any]] = [
    {"step": 100, "losses": {"loss": 6.0, "level_0": 0.4, "level_1": 0.3, "r2_0": -0.5, "contrast": 4.0}, "lr": 0.001},
    {
        "step": 200,
        "losses": {"loss": 5.0, "level_0": 0.25, "level_1": None, "r2_0": 0.5},
        "lr": 0.0005,
        "knn": [0.5, None],
        "rankme": [12.5, 20.0],
    },
    {"step": 300, "losses": {"loss": 4.0, "level_0": 0.125, "level_1": 0.0625}, "lr": 0.0, "knn": [0.625, 0.75]},
]


def lines_of(key: str, rows: list[dict[str, Any]] = ROWS) -> list[tuple[list[int], list[float]]]:
    return curve_lines(rows, next(curve for curve in CURVES if curve.key == key))


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("loss", [([100, 200, 300], [0.4, 0.25, 0.125]), ([100, 300], [0.3, 0.0625])]),
        ("r2", [([100, 200], [-0.5, 0.5])]),
        ("knn", [([200, 300], [50.0, 62.5]), ([300], [75.0])]),
        ("rankme", [([200], [12.5]), ([200], [20.0])]),
        ("whole", [([100, 200, 300], [6.0, 5.0, 4.0])]),
        ("lr", [([100, 200, 300], [0.001, 0.0005, 0.0])]),
        ("momentum", []),
    ],
)
def test_curve_lines__are_the_logs_numbers(key: str, lines: list[Any]) -> None:
    assert lines_of(key) == lines


def test_curve_lines__what_is_no_number_is_a_gap() -> None:
    rows = [{"step": 1, "lr": "NaN"}, {"step": 2, "lr": float("nan")}, {"step": 3, "lr": 1.0}, {"step": 4, "lr": True}]
    assert lines_of("lr", rows) == [([3], [1.0])]
    assert lines_of("lr", rows[:2]) == []
    assert lines_of("knn", [{"step": 1, "knn": None}, {"step": 2, "losses": None}]) == []


def test_draw_curve__a_line_per_level_over_steps() -> None:
    (panel,) = draw_curve(lines_of("loss"), CURVES[0]).axes
    assert {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines} == {
        "level 0": ([100, 200, 300], [0.4, 0.25, 0.125]),
        "level 1": ([100, 300], [0.3, 0.0625]),
    }
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("step", "loss of the prediction")


def test_draw_curve__few_measurements_are_marked_many_are_a_line() -> None:
    few, many = (draw_curve([(list(range(n)), [0.0] * n)], CURVES[0]).axes[0].lines[0] for n in (4, 40))
    assert few.get_marker() != ""
    assert many.get_marker() in ("", "None")


def test_training_pictures__leave_out_what_the_log_has_not() -> None:
    pictures = training_pictures(ROWS, prefix="run-")
    assert [picture.title for picture in pictures] == [
        "Loss by level",
        "Explained variance by level",
        "kNN by level, images of the train split",
        "RankMe by level",
        "Whole loss",
        "Learning rate",
    ]
    assert pictures[0].text == (
        "Loss by level during pretraining, loss of the prediction: level 0 from 0.4 at step 100 to 0.125 at step 300 "
        "and level 1 from 0.3 at step 100 to 0.0625 at step 300."
    )
    assert pictures[4].text == "Whole loss during pretraining, loss: from 6 at step 100 to 4 at step 300."
    assert 'id="run-loss-title"' in pictures[0].svg
    assert training_pictures([]) == []


def test_curve__a_few_far_values_do_not_flatten_the_rest() -> None:
    values = [-25.0, -3.0, *(0.1 + place / 100 for place in range(40))]
    low, high, outside = robust_range(values)
    assert (outside, high > 0.49) == (2, True)
    assert -1 < low < 0.1
    curve = next(curve for curve in CURVES if curve.key == "r2")
    panel = draw_curve([(list(range(len(values))), values)], curve).axes[0]
    assert panel.get_ylim() == (low, high)
    assert "2 outside" in panel.get_ylabel()


@pytest.mark.parametrize("values", [[1.0] * 30, [0.1, 0.2, -25.0], [place / 10 for place in range(50)]])
def test_curve__an_axis_that_shows_all_is_left_as_it_is(values: list[float]) -> None:
    assert robust_range(values) is None

from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.metrics.classes import ClassDifferences, per_class_differences
from hjepa_eval.report.figures.per_class import class_difference_picture, draw_differences, shown_differences


def found_of(difference: list[float], spread: float = 0.1) -> ClassDifferences:
    gains = np.array(difference)
    names = tuple(f"n{place}" for place in range(len(gains)))
    half = np.full(len(gains), 0.5)
    return ClassDifferences(
        names, np.full(len(gains), 20), half + gains, half, gains, gains - spread, gains + 2 * spread, "made by hand"
    )


def test_draw_differences__both_accuracies_and_the_interval() -> None:
    accuracy, difference = draw_differences(found_of([0.25, -0.25]), ("level 2", "level 0")).axes
    assert {line.get_label(): list(line.get_xdata()) for line in accuracy.lines} == {
        "level 2": [75.0, 25.0],
        "level 0": [50.0, 50.0],
    }
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["n0", "n1"]
    assert list(difference.lines[0].get_xdata()) == [25.0, -25.0]
    segments = [segment[:, 0] for segment in difference.collections[0].get_segments()]
    assert segments == [pytest.approx([15.0, 45.0]), pytest.approx([-35.0, -5.0])]
    # The first is on top.
    assert accuracy.get_ylim() == difference.get_ylim() == (1.5, -0.5)


def test_class_difference_picture__greatest_gain_first_and_says_what_is_beyond_its_interval() -> None:
    picture = class_difference_picture(
        found_of([0.05, -0.3, 0.2]), title="kNN k=20", prefix="d-", levels=("level 2", "level 0")
    )
    order = [picture.svg.index(f">{name}<") for name in ("n2", "n0", "n1")]
    assert order == sorted(order)
    assert picture.text == (
        "kNN k=20: accuracy per class of level 2 minus level 0, in points with a 95 % interval. "
        "Of 3 classes 1 gain and 1 lose beyond their interval. Most gained: n2 +20.0 (+10.0 to +40.0). "
        "Most lost: n1 -30.0 (-40.0 to -10.0)."
    )


def test_class_difference_picture__of_many_classes_fifteen_from_each_end_and_says_so() -> None:
    found = found_of([place / 100 for place in range(40)])
    shown = shown_differences(found)
    assert shown is not None
    assert shown.names == tuple(f"n{place}" for place in [*range(39, 24, -1), *range(14, -1, -1)])
    picture = class_difference_picture(found, title="t", prefix="d-")
    assert picture.title == "t (15 of 40 classes from each end)"
    assert "(15 of 40 classes from each end)" in picture.text
    assert "Of 40 classes" in picture.text
    assert ">n20<" not in picture.svg
    assert shown_differences(found_of([0.0] * 30)) is None


def test_class_difference_picture__draws_what_was_computed() -> None:
    labels = np.array([0, 0, 1, 1])
    found = per_class_differences(labels, labels == 1, labels == 0, ["a", "b"])
    accuracy, _ = draw_differences(found, ("one", "other")).axes
    assert [list(line.get_xdata()) for line in accuracy.lines] == [[0.0, 100.0], [100.0, 0.0]]
    picture = class_difference_picture(found, title="t", prefix="d-")
    assert picture.svg.index(">b<") < picture.svg.index(">a<")


def test_class_difference_picture__no_samples_are_no_error() -> None:
    nothing = per_class_differences(np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, bool), ["a"])
    assert class_difference_picture(nothing, title="t", prefix="d-").text == "t: no samples."

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hjepa_eval.report.figures.confusion import confusion_picture, draw_confusion, shown_classes
from hjepa_eval.report.figures.drawing import drawn

NAMES = ["cat", "dog", "owl"]
COUNTS = np.array([[3, 1, 0], [0, 4, 0], [399, 1, 0]])


def cells_of(figure: object) -> dict[tuple[int, int], float]:
    """Return the strength of each cell drawn, by (row, column)."""
    (panel,) = figure.axes
    (cells,) = [each for each in panel.collections if each.get_gid() == "cells"]
    assert {to_hex(colour[:3]) for colour in cells.get_facecolors()} == {drawn("heat")}
    middles = [path.vertices[:4].mean(axis=0) for path in cells.get_paths()]
    return {
        (round(y), round(x)): round(float(c[3]), 4) for (x, y), c in zip(middles, cells.get_facecolors(), strict=True)
    }


def test_draw_confusion__cells_are_as_strong_as_their_share() -> None:
    shares = COUNTS / COUNTS.sum(axis=1, keepdims=True)
    figure = draw_confusion(shares, NAMES)
    assert cells_of(figure) == {(0, 0): 0.75, (0, 1): 0.25, (1, 1): 1.0, (2, 0): 1.0, (2, 1): 0.02}
    (panel,) = figure.axes
    assert {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in panel.texts} == {
        (0, 0): "75",
        (0, 1): "25",
        (1, 1): "100",
        (2, 0): ">99",
        (2, 1): "<1",
    }
    assert [tick.get_text() for tick in panel.get_yticklabels()] == NAMES
    assert [tick.get_text() for tick in panel.get_xticklabels()] == NAMES
    assert panel.get_ylim() == (2.5, -0.5)


def test_draw_confusion__many_classes_are_numbered_and_have_no_numbers_in_cells() -> None:
    names = [f"class {place}" for place in range(13)]
    (panel,) = draw_confusion(np.eye(13), names).axes
    assert not panel.texts
    assert [tick.get_text() for tick in panel.get_yticklabels()][:2] == ["1 class 0", "2 class 1"]
    assert [
        (tick, text.get_text()) for tick, text in zip(panel.get_xticks(), panel.get_xticklabels(), strict=True)
    ] == [
        (4, "5"),
        (9, "10"),
    ]
    assert len(draw_confusion(np.eye(12), names[:12]).axes[0].texts) == 12


def test_confusion_picture__counts_of_several_runs_are_not_called_images() -> None:
    picture = confusion_picture(2 * COUNTS, NAMES, title="kNN k=20, level 2", prefix="c-", runs=2)
    assert "14 of 2 x 408 right (1.7 percent)" in picture.text


def test_confusion_picture__says_the_numbers_that_matter() -> None:
    picture = confusion_picture(COUNTS, NAMES, title="kNN k=20, level 2", prefix="c-")
    assert picture.title == "kNN k=20, level 2"
    assert picture.text == (
        "kNN k=20, level 2: confusion matrix, rows are true classes. 7 of 408 right (1.7 percent). "
        "Highest dog 100.0, lowest owl 0.0 percent. Most frequent errors: owl taken for cat (99.8 percent), "
        "cat taken for dog (25.0 percent) and owl taken for dog (0.2 percent)."
    )


def test_confusion_picture__of_many_classes_those_with_most_errors_and_says_so() -> None:
    counts = 10 * np.eye(40, dtype=np.int64)
    for place in range(30):
        # Classes 10 to 39 have errors; the last one is taken for class 0, which is not shown.
        counts[place + 10, 0] = 1 + place
    assert shown_classes(counts) == list(range(10, 40))
    names = [f"n{place}" for place in range(40)]
    picture = confusion_picture(counts, names, title="linear", prefix="c-")
    assert picture.title == "linear (the 30 of 40 classes with the most errors)"
    assert "the 30 of 40 classes" in picture.text
    assert ">1 n10<" in picture.svg
    assert ">n9<" not in picture.svg
    # The share counts what was taken for classes that are not shown: 10 of 40.
    assert "fill-opacity:0.25" in picture.svg


def test_confusion_picture__beside_others_shows_the_classes_that_all_of_them_get_wrong() -> None:
    names = [f"n{place}" for place in range(40)]
    levels = [10 * np.eye(40, dtype=np.int64) for _ in range(2)]
    levels[0][:30, 39] += 1
    levels[1][10:40, 0] += 2
    alone = [shown_classes(counts) for counts in levels]
    assert alone[0] != alone[1]
    pictures = [
        confusion_picture(counts, names, title="linear", prefix=f"c{n}-", together=levels[0] + levels[1])
        for n, counts in enumerate(levels)
    ]
    for picture in pictures:
        assert picture.title == "linear (the 30 of 40 classes with the most errors at all levels)"
        assert [name for name in names if f" {name}<" in picture.svg] == names[10:]


@pytest.mark.parametrize("classes", [30, 31])
def test_confusion_picture__up_to_thirty_classes_are_all_shown(classes: int) -> None:
    picture = confusion_picture(np.eye(classes, dtype=np.int64), ["x"] * classes, title="t", prefix="c-")
    assert ("30 of 31" in picture.title) == (classes == 31)


def test_confusion_picture__classes_without_samples_are_no_error() -> None:
    counts = np.array([[2, 0], [0, 0]])
    text = confusion_picture(counts, ["a", "b"], title="t", prefix="c-").text
    assert "2 of 2 right" in text
    assert "b" not in text.replace("t: confusion matrix, rows are true classes", "").split()
    assert confusion_picture(0 * counts, ["a", "b"], title="t", prefix="c-").text == "t: no samples."

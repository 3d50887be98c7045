from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.classes import confusion_counts, most_confused, per_class_differences


def test_confusion_counts__rows_are_true_classes() -> None:
    labels, predictions = np.array([0, 0, 0, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert confusion_counts(labels, predictions, 3).tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 1]]


def test_confusion_counts__equal_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 7, (2, 500))
    ours = confusion_counts(labels, predictions, 7)
    assert ours.dtype == np.int64
    assert np.array_equal(ours, confusion_matrix(labels, predictions, labels=range(7)))


@pytest.mark.parametrize(
    ("labels", "predictions", "part"),
    [([0, 1], [0], "2 labels and 1 predictions"), ([0, 3], [0, 1], "labels lie between 0 and 3"), ([0], [-1], "-1")],
)
def test_confusion_counts__refuse_what_is_no_class(labels: list[int], predictions: list[int], part: str) -> None:
    with pytest.raises(ProbeError, match=part):
        confusion_counts(np.array(labels), np.array(predictions), 3)


def test_most_confused__most_frequent_first_ties_in_class_order_never_the_diagonal() -> None:
    counts = np.array([[9, 2, 5], [2, 9, 0], [0, 5, 9]])
    assert most_confused(counts, 3) == [(0, 2), (2, 1), (0, 1)]
    assert most_confused(counts, 99) == [(0, 2), (2, 1), (0, 1), (1, 0)]
    assert most_confused(np.eye(3, dtype=np.int64), 3) == []


def test_per_class_differences__equal_hand_computed_intervals() -> None:
    # Of class a 5 of 8 and 3 of 8 are right, 3 by the first alone and 1 by the second alone; b has no sample; of c the
    # first level has one of one right, the second none.
    labels = np.array([0] * 8 + [2])
    first = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1], bool)
    second = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0], bool)
    found = per_class_differences(labels, first, second, ["a", "b", "c"])
    assert found.names == ("a", "c")
    assert found.samples.tolist() == [8, 1]
    assert found.first.tolist() == [0.625, 1.0]
    assert found.second.tolist() == [0.375, 0.0]
    assert found.difference.tolist() == [0.25, 1.0]
    # p = 0.4, q = 0.2: 0.2 -+ 1.959964 sqrt((0.6 - 0.04) / 10); p = 2/3, q = 1/3: 1/3 -+ 1.959964 sqrt((8 / 9) / 3).
    assert found.low == pytest.approx([-0.263812, -0.733536], abs=1e-6)
    assert found.high == pytest.approx([0.663812, 1.0], abs=1e-6)
    assert found.interval == "bonett-price 95%"


def test_per_class_differences__interval_has_a_width_where_levels_agree() -> None:
    right = np.array([True, False])
    found = per_class_differences(np.zeros(2, np.int64), right, right, ["a"])
    # p = q = 1/4: 1.959964 sqrt(0.5 / 4).
    assert (found.low[0], found.high[0]) == pytest.approx((-0.692952, 0.692952), abs=1e-6)


def test_per_class_differences__shares_of_seeds_have_a_hand_computed_interval() -> None:
    # Two samples: two seeds of two and one of two right at the first level, one of two at the second.
    found = per_class_differences(np.zeros(2, np.int64), np.array([1.0, 0.5]), np.array([0.5, 0.5]), ["a"])
    assert (found.first[0], found.second[0], found.difference[0]) == (0.75, 0.5, 0.25)
    # The differences 0.5, 0, 1, -1 have the mean 1/8, their squares 9/16: 1/8 -+ 1.959964 sqrt((9/16 - 1/64) / 4).
    assert (found.low[0], found.high[0]) == (pytest.approx(-0.599706, abs=1e-6), pytest.approx(0.849706, abs=1e-6))
    # Seeds that agree are one seed.
    right = np.array([[True, False], [True, True]])
    one, several = (per_class_differences(np.array([0, 0]), *right.astype(kind), ["a"]) for kind in (bool, float))
    assert (one.low, one.high) == (several.low, several.high)


def test_per_class_differences__swapping_the_levels_turns_the_sign() -> None:
    generator = np.random.default_rng(1)
    labels, first, second = generator.integers(0, 4, 90), generator.random(90) < 0.8, generator.random(90) < 0.5
    one, other = (per_class_differences(labels, *pair, list("abcd")) for pair in ((first, second), (second, first)))
    assert one.low == pytest.approx(-other.high)
    assert one.difference == pytest.approx(-other.difference)


def test_per_class_differences__intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 3,000 classes of 30 samples: 30 % both right, 30 % the first alone, 10 % the second alone; the truth is 0.2.
    draws = np.random.default_rng(0).random(90_000)
    first, second = draws < 0.6, (draws < 0.3) | (draws > 0.9)
    labels = np.repeat(np.arange(3000), 30)
    found = per_class_differences(labels, first, second, [str(label) for label in range(3000)])
    assert 0.94 < ((found.low <= 0.2) & (found.high >= 0.2)).mean() < 0.97


@pytest.mark.parametrize(
    ("sizes", "confidence", "part"),
    [((3, 2, 3), 0.95, "found 3, 2 and 3"), ((3, 3, 3), 95.0, "use 0.95"), ((9, 9, 9), 0.95, "between 0 and 8")],
)
def test_per_class_differences__refuse_other_samples_names_and_confidences(
    sizes: tuple[int, int, int], confidence: float, part: str
) -> None:
    labels, first, second = np.arange(sizes[0]), np.ones(sizes[1], bool), np.ones(sizes[2], bool)
    with pytest.raises(ProbeError, match=part):
        per_class_differences(labels, first, second, ["a", "b", "c"], confidence=confidence)

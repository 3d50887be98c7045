"""Accuracies on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import (
    accuracy,
    balanced_accuracy,
    per_class_accuracy,
    superclass_accuracy,
    topk_accuracy,
    topk_hits,
)

PREDICTED = np.array([0, 0, 1, 2, 2, 2])
LABELS = np.array([0, 0, 0, 2, 2, 1])


def test_accuracy__counts_equal_entries() -> None:
    assert accuracy(PREDICTED, LABELS).value == pytest.approx(4 / 6)


def test_per_class_accuracy__leaves_out_absent_classes() -> None:
    each = per_class_accuracy(PREDICTED, LABELS, num_classes=5)
    assert {c: i.value for c, i in each.items()} == pytest.approx({0: 2 / 3, 1: 0.0, 2: 1.0})
    assert each[0].num_samples == 3


def test_balanced_accuracy__weighs_every_class_alike() -> None:
    assert balanced_accuracy(PREDICTED, LABELS, num_classes=5) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_superclass_accuracy__forgives_confusion_inside_a_superclass() -> None:
    assert superclass_accuracy(PREDICTED, LABELS, superclass=np.array([0, 0, 1])).value == pytest.approx(5 / 6)


def test_superclass_accuracy__refuses_a_class_without_superclass() -> None:
    with pytest.raises(ProbeError, match="class 2 has no superclass"):
        superclass_accuracy(PREDICTED, LABELS, superclass=np.array([0, 0]))


def test_topk_hits__equals_a_stable_sort() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 4, size=(200, 9)).astype(np.float32)  # many ties
    labels = generator.integers(0, 9, size=200)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 3, 5):
        assert (topk_hits(scores, labels, k=k) == (order[:, :k] == labels[:, None]).any(axis=1)).all()


def test_topk_accuracy__is_one_when_k_covers_all_classes() -> None:
    assert topk_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 2]), k=5).value == 1.0


def test_accuracy__refuses_unlike_lengths_and_nothing() -> None:
    with pytest.raises(ProbeError, match="6 predictions do not belong to 5 labels"):
        accuracy(PREDICTED, LABELS[:5])
    with pytest.raises(ProbeError, match="0 samples"):
        accuracy(PREDICTED[:0], LABELS[:0])

"""Checks before every probe: what is refused, what is a note."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.samples import Samples, check_samples


def small() -> Samples:
    return Samples(np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2]))


def broken(value: float, row: int) -> Samples:
    samples = small()
    samples.features[row:, 1] = value
    return samples


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (broken(np.nan, 2), small(), "4 of 6 train features hold NaN or infinity, the first at row 2"),
        (small(), broken(np.inf, 5), "1 of 6 test features hold NaN or infinity, the first at row 5"),
        (Samples(small().features[:0], small().labels[:0]), small(), r"shape \[0, 2\]"),
        (replace(small(), features=np.zeros((6, 2, 2), np.float32)), small(), r"shape \[6, 2, 2\]"),
        (replace(small(), labels=np.zeros(5, np.int64)), small(), r"train labels have shape \[5\]"),
        (replace(small(), labels=np.zeros(6)), small(), "float64; expected whole numbers"),
        (small(), replace(small(), labels=np.array([0, 1, 7, 0, -1, 2])), r"2 test labels .* the first is 7 at row 2"),
        (small(), replace(small(), features=np.ones((6, 3), np.float32)), "2 dimensions and test features 3"),
        (replace(small(), labels=np.ones(6, np.int64)), small(), r"all 6 train samples are of class 1 \('cat'\)"),
    ],
)
def test_check_samples__says_what_is_wrong(train: Samples, test: Samples, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        check_samples(train, test, num_classes=3, class_names=("ant", "cat", "dog"))


def test_check_samples__float16_overflow_is_refused() -> None:
    with np.errstate(over="ignore"):
        halves = replace(small(), features=np.full((6, 2), 7e4).astype(np.float16))
    with pytest.raises(ProbeError, match=r"6 of 6 train features hold NaN or infinity.*--precision fp32"):
        check_samples(halves, small(), num_classes=3)


def test_check_samples__large_finite_features_are_fine() -> None:
    large = replace(small(), features=np.full((6, 2), 3e38, np.float32) / np.arange(1, 7, dtype=np.float32)[:, None])
    check_samples(large, large, num_classes=3)


def test_check_samples__one_class_is_nothing_to_tell_apart() -> None:
    with pytest.raises(ProbeError, match="at least 2"):
        check_samples(small(), small(), num_classes=1)


def test_check_samples__other_types_are_converted() -> None:
    train, _, notes = check_samples(
        Samples(small().features.astype(np.float64), small().labels.astype(np.int32)), small(), num_classes=3
    )
    assert (train.features.dtype, train.labels.dtype, notes) == (np.float32, np.int64, ())


def test_check_samples__notes_constant_features_and_absent_classes() -> None:
    flat = replace(small(), features=np.ones((6, 2), np.float32))
    two = replace(small(), labels=np.array([0, 1, 0, 1, 0, 1]))
    assert check_samples(flat, small(), num_classes=3)[2] == (
        "all train features are equal: this level carries no information",
    )
    assert check_samples(two, small(), num_classes=3, class_names=("ant", "cat", "dog"))[2] == (
        "1 classes of test are absent from train and can never be predicted: class 2 ('dog')",
    )


def test_stratified_holdout__takes_the_share_of_every_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 40, 2, 1])
    kept, held = stratified_holdout(labels, fraction=0.1, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 4, 1, 0]
    assert sorted([*kept, *held]) == list(range(143))


def test_stratified_holdout__depends_on_the_seed_only() -> None:
    labels = np.arange(100) % 5
    first, again, other = (stratified_holdout(labels, seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_stratified_holdout__refuses_single_samples_and_bad_fractions() -> None:
    with pytest.raises(ProbeError, match="give one C"):
        stratified_holdout(np.arange(5))
    with pytest.raises(ProbeError, match="between 0 and 1"):
        stratified_holdout(np.zeros(5, np.int64), fraction=10)

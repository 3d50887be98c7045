"""Ridge against scikit-learn's RidgeCV and against leaving samples out for real."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.samples import Samples

PENALTIES = (0.1, 10.0, 1000.0)


def test_ridge__leave_one_out_errors_equal_scikit_learns(digits) -> None:
    train, test = digits
    ours = ridge_regression(train, test, num_classes=10, penalties=PENALTIES)
    targets = 2.0 * np.eye(10)[train.labels] - 1
    theirs = RidgeCV(alphas=PENALTIES, store_cv_results=True).fit(train.features.astype(float), targets)
    expected = theirs.cv_results_.mean(axis=(0, 1))
    assert list(ours.val_errors.values()) == pytest.approx(expected, rel=1e-6)


def test_ridge__the_solution_equals_scikit_learns(digits) -> None:
    train, test = digits
    ours = ridge_regression(train, test, num_classes=10, penalties=[10.0])
    theirs = Ridge(alpha=10.0).fit(train.features.astype(float), 2.0 * np.eye(10)[train.labels] - 1)
    assert np.allclose(ours.weight, theirs.coef_, atol=1e-6)
    assert np.allclose(ours.bias, theirs.intercept_, atol=1e-5)
    assert (ours.predictions == theirs.predict(test.features.astype(float)).argmax(axis=1)).all()


def test_ridge__leave_one_out_accuracy_equals_leaving_out(digits) -> None:
    some = digits[0].take(np.arange(60))
    ours = ridge_regression(some, digits[1], num_classes=10, penalties=[10.0])
    targets, right = 2.0 * np.eye(10)[some.labels] - 1, []
    for i in range(60):
        rest = np.delete(np.arange(60), i)
        fitted = Ridge(alpha=10.0).fit(some.features[rest].astype(float), targets[rest])
        # The shares of the classes are those of all, so that the own class is not 1 / 60 less likely.
        shares = targets.mean(axis=0) - targets[rest].mean(axis=0)
        right.append((fitted.predict(some.features[i : i + 1].astype(float)) + shares).argmax() == some.labels[i])
    assert (ours.left_out_right == right).all()
    assert ours.val_scores[10.0] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("size", [1e-4, 1e-10, 1e-25, 1e8, 1e25])
def test_ridge__sizes_of_features_are_sizes_of_penalties(digits, size: float) -> None:
    scaled = [Samples((each.features * size).astype(np.float32), each.labels) for each in digits]
    plain = ridge_regression(*digits, num_classes=10, penalties=[10.0])
    ours = ridge_regression(*scaled, num_classes=10, penalties=[10.0 * size**2])
    assert (ours.predictions == plain.predictions).mean() >= 0.998
    assert ours.val_scores[10.0 * size**2] == pytest.approx(plain.val_scores[10.0], abs=0.002)


def test_ridge__a_crushing_penalty_leaves_chance_not_zero_and_is_said(digits) -> None:
    """Left out, a sample's own class is the rarer one: without the features' part every guess would be wrong."""
    even = digits[0].take(np.concatenate([np.flatnonzero(digits[0].labels == label)[:50] for label in range(10)]))
    tiny = [Samples(each.features * np.float32(1e-7), each.labels) for each in (even, digits[1])]
    ours = ridge_regression(*tiny, num_classes=10)
    scores = list(ours.val_scores.values())
    assert min(scores) > 0.5  # the direction is right whatever the size
    assert ours.score.value > 0.7
    assert ours.notes == ("the chosen penalty 0.001 is the smallest of the grid; a wider grid may do better",)


def test_ridge__float32_agrees_with_float64(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ridge_regression(*digits, num_classes=10)
    monkeypatch.setattr("hjepa_eval.probes.linear.ridge._SMALL", 0)
    rough = ridge_regression(*digits, num_classes=10)
    assert (rough.predictions == exact.predictions).mean() >= 0.998
    assert rough.penalty == exact.penalty


def test_ridge__more_dimensions_than_samples(digits) -> None:
    some = digits[0].take(np.arange(40))
    ours = ridge_regression(some, digits[1], num_classes=10)
    assert 0.4 < ours.score.value < 1.0
    assert ours.notes == ()


def test_ridge__the_test_set_has_no_part_in_the_choice(digits) -> None:
    train, test = digits
    ours = ridge_regression(train, test, num_classes=10)
    scrambled = ridge_regression(train, Samples(test.features, (test.labels + 1) % 10), num_classes=10)
    assert (ours.penalty, ours.val_scores) == (scrambled.penalty, scrambled.val_scores)
    assert ours.val_scores[ours.penalty] == max(ours.val_scores.values())


def test_ridge__constant_features_score_at_chance(digits) -> None:
    train, test = (Samples(np.ones_like(s.features), s.labels) for s in digits)
    assert ridge_regression(train, test, num_classes=10).score.value < 0.2


def test_ridge__refuses_a_penalty_that_is_not_positive(digits) -> None:
    with pytest.raises(ProbeError, match="above 0"):
        ridge_regression(*digits, num_classes=10, penalties=[0.0, 1.0])

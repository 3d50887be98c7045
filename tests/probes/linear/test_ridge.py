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
    right = 0
    for i in range(60):
        rest = some.take(np.delete(np.arange(60), i))
        fitted = Ridge(alpha=10.0).fit(rest.features.astype(float), 2.0 * np.eye(10)[rest.labels] - 1)
        right += int(fitted.predict(some.features[i : i + 1].astype(float)).argmax() == some.labels[i])
    assert ours.val_scores[10.0] == pytest.approx(right / 60)


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

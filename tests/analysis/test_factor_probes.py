from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from hjepa_eval.analysis.factors import (
    Standardised,
    angle_columns,
    logistic_factors,
    ratio_intervals,
    ridge_factors,
    shuffled,
)
from hjepa_eval.errors import ProbeError


def made(count: int, seed: int, *, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 8)) * np.arange(1, 9) + 100
    values = features @ np.linspace(-1, 1, 8) / 5 + noise * generator.normal(size=count)
    return features.astype(np.float32), values


def test_ridge__chooses_and_predicts_as_scikit_learn_left_out_one_by_one() -> None:
    (train, y), (test, asked) = made(60, 0, noise=4), made(40, 1, noise=4)
    fit = ridge_factors(Standardised(train, test), {"a": y}, {"a": asked})["a"]
    scaled = (train.astype(np.float64) - train.mean(axis=0, dtype=np.float64)) / train.std(axis=0, dtype=np.float64)
    errors = {}
    for penalty in (1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4):
        guesses = cross_val_predict(Ridge(penalty), scaled, y, cv=LeaveOneOut())
        errors[penalty] = ((guesses - y) ** 2).mean()
    assert fit.strength == min(errors, key=lambda penalty: errors[penalty])
    asked_rows = (test - train.mean(axis=0, dtype=np.float64)) / train.std(axis=0, dtype=np.float64)
    wanted = r2_score(asked, Ridge(fit.strength).fit(scaled, y).predict(asked_rows))
    assert fit.value == pytest.approx(wanted, abs=1e-6)
    assert fit.low < fit.value < fit.high
    assert np.mean(fit.influence) == pytest.approx(fit.value)


def test_ridge__does_not_feel_scale_or_shift_of_features_or_factor() -> None:
    (train, y), (test, asked) = made(200, 0), made(100, 1)
    wanted = ridge_factors(Standardised(train, test), {"a": y}, {"a": asked})["a"].value
    moved = Standardised(1e-12 * (train.astype(np.float64) + 50), 1e-12 * (test.astype(np.float64) + 50))
    assert ridge_factors(moved, {"a": 1e6 * y - 1e8}, {"a": 1e6 * asked - 1e8})["a"].value == pytest.approx(
        wanted, abs=1e-6
    )


def test_ridge__leaves_out_images_without_the_property() -> None:
    (train, y), (test, asked) = made(200, 0), made(100, 1)
    some_train, some_test = y.copy(), asked.copy()
    some_train[::2], some_test[::4] = np.nan, np.nan
    both = ridge_factors(Standardised(train, test), {"all": y, "some": some_train}, {"all": asked, "some": some_test})
    assert (both["some"].num_train, both["some"].num_test) == (100, 75)
    assert np.isnan(both["some"].influence[::4]).all()
    # Standardisation is of all images, so it is another fit than that of the halves alone, but hardly another value.
    halves = Standardised(train[1::2], test[np.arange(100) % 4 > 0])
    alone = ridge_factors(halves, {"a": y[1::2]}, {"a": asked[np.arange(100) % 4 > 0]})["a"]
    assert both["some"].value == pytest.approx(alone.value, abs=0.02)


def test_ridge__an_angle_is_told_across_its_seam() -> None:
    generator = np.random.default_rng(0)
    degrees = generator.uniform(0, 360, 300)
    features = angle_columns(degrees) + 0.05 * generator.normal(size=(300, 2))
    split = Standardised(features[:200], features[200:])
    turned = angle_columns(degrees)
    assert ridge_factors(split, {"a": turned[:200]}, {"a": turned[200:]})["a"].value > 0.98
    assert ridge_factors(split, {"a": degrees[:200]}, {"a": degrees[200:]})["a"].value < 0.8


def test_logistic__is_scikit_learns_and_chance_is_the_commonest() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(3, size=600, p=[0.5, 0.3, 0.2])
    features = generator.normal(size=(600, 6)) + 1.5 * np.eye(6)[labels]
    split = Standardised(features[:400], features[400:])
    values = labels.astype(np.float64)
    fit = logistic_factors(split, {"a": values[:400]}, {"a": values[400:]}, categories={"a": 3}, cs=[1.0])["a"]
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(split.train, labels[:400])
    assert fit.value == pytest.approx(theirs.score(split.test, labels[400:]), abs=0.006)
    assert fit.chance == (labels[400:] == 0).mean()
    assert np.mean(fit.influence) == pytest.approx(fit.value)


def test_control__a_shuffled_factor_is_told_no_better_than_chance() -> None:
    (train, y), (test, asked) = made(400, 0), made(400, 1)
    split = Standardised(train, test)
    real = ridge_factors(split, {"a": y}, {"a": asked})["a"]
    control = ridge_factors(split, {"a": shuffled(y)}, {"a": shuffled(asked, seed=1)})["a"]
    assert real.value > 0.5
    assert abs(control.value) < 0.05
    some = np.where(np.arange(10) % 2, np.nan, np.arange(10.0))
    assert sorted(shuffled(some)[::2]) == [0, 2, 4, 6, 8]
    assert np.isnan(shuffled(some)[1::2]).all()


def test_ratio_intervals__covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(50):
        y = generator.normal(size=(300, 4))
        error, spread = (y - (y + generator.normal(size=y.shape)) / 2) ** 2, (y - y.mean(axis=0)) ** 2
        values, low, high = ratio_intervals(error, spread, seed=seed)
        covered += int(((low <= 0.5) & (high >= 0.5)).sum())
        assert (low <= values).all()
        assert (values <= high).all()
    assert 0.9 <= covered / 200 <= 0.985


@pytest.mark.parametrize("bad", [np.ones(60), np.full(60, np.nan)])
def test_ridge__a_factor_without_values_or_differences_is_named(bad: np.ndarray) -> None:
    train, y = made(60, 0)
    with pytest.raises(ProbeError, match="factor shade"):
        ridge_factors(Standardised(train, train), {"shade": bad}, {"shade": y})


def test_standardised__refuses_nan_and_ignores_constant_dimensions() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    rows[:, 1] = 0.1
    split = Standardised(rows, rows)
    assert not split.train[:, 1].any()
    assert split.train[:, 0].std() == pytest.approx(1)
    rows[3, 0] = np.nan
    with pytest.raises(ProbeError, match="NaN"):
        Standardised(rows, rows)

"""Every probe under shifts, scales, far rows, collapse and duplicates, against plain float64 arithmetic written here.

The references read the very float32 numbers that the probes read, and form differences of rows in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hjepa_eval.metrics.accuracy import accuracy, balanced_accuracy, per_class_accuracy, topk_accuracy
from hjepa_eval.metrics.calibration import expected_calibration_error, fit_temperature, softmax
from hjepa_eval.metrics.linear_map import linear_map_r2
from hjepa_eval.metrics.paired import compare_correct
from hjepa_eval.probes.few_labels.episodes import Episodes, draw_episodes
from hjepa_eval.probes.few_labels.few_shot import classify_episodes
from hjepa_eval.probes.few_labels.low_shot import low_shot
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.linear.sgd import Head, Recipe, train_heads
from hjepa_eval.probes.samples import Samples

Rows = NDArray[np.float32]
TRAIN, TEST = 400, 150
DRAWS = settings(
    max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def pixels() -> Samples:
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(3).permutation(len(labels))[: TRAIN + TEST]
    noise = np.random.default_rng(4).normal(0, 1e-3, (TRAIN + TEST, 64))  # without it equal distances are common
    return Samples((rows[order] + noise).astype(np.float32), labels[order].astype(np.int64))


def moved(rows: Rows, case: str) -> Rows:
    """Return the rows under a change that leaves them told apart by float32."""
    changed = rows.copy()
    if case == "shift":
        return changed + np.float32(1e4)
    if case == "collapse":  # 1 - cosine is 1e-8
        return changed + np.linspace(1e4, 2e4, 64, dtype=np.float32)
    if case == "huge":
        return changed * np.float32(1e30)
    if case == "minute":
        return changed * np.float32(1e-30)
    if case == "far rows":
        changed[[5, TRAIN + 5]] *= np.float32(1e6)
    if case == "tiny rows":
        changed[[5, TRAIN + 5]] *= np.float32(1e-20)
    if case == "duplicates":
        changed[10:60] = changed[60:110]
    if case == "half":
        return changed.astype(np.float16).astype(np.float32)
    return changed


CASES = ("plain", "shift", "collapse", "huge", "minute", "far rows", "tiny rows", "duplicates", "half")


def split(rows: Rows, labels: NDArray[np.int64]) -> tuple[Samples, Samples]:
    return Samples(rows[:TRAIN], labels[:TRAIN]), Samples(rows[TRAIN:], labels[TRAIN:])


def unit(rows: NDArray) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    norm = np.sqrt((exact**2).sum(axis=1, keepdims=True))
    return exact / np.where(norm > 0, norm, 1)


def distances(queries: NDArray[np.float64], bank: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.sqrt(((query - bank) ** 2).sum(axis=1)) for query in queries])


def neighbours_vote(train: Samples, test: Samples, metric: str, k: int) -> NDArray[np.int64]:
    place = unit if metric == "cosine" else lambda rows: rows.astype(np.float64)
    apart = distances(place(test.features), place(train.features))
    guesses = []
    for row in apart:
        near = np.lexsort((np.arange(len(row)), np.round(row / max(row.min(), 1e-300), 9)))[:k]
        weights = np.exp(-(row[near] ** 2) / 2 / 0.07) if metric == "cosine" else 1 / (row[near] + 1e-5)
        votes = np.bincount(train.labels[near], weights, 10)
        best = np.flatnonzero(votes >= votes.max() * (1 - 1e-12))
        guesses.append(next(label for label in train.labels[near] if label in best))
    return np.array(guesses)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_knn__equals_float64(pixels: Samples, case: str, metric: str, backend: str) -> None:
    train, test = split(moved(pixels.features, case), pixels.labels)
    weighting = "exponential" if metric == "cosine" else "inverse"
    ours = knn(train, test, num_classes=10, ks=(1, 10), metric=metric, weighting=weighting, backend=backend)
    for k in (1, 10):
        assert (ours.predictions[k] == neighbours_vote(train, test, metric, k)).all()


def nearest_means(rows: NDArray[np.float64], episodes: Episodes) -> NDArray[np.float64]:
    accuracies = []
    for support, queries in zip(episodes.support, episodes.queries, strict=True):
        first = rows[support[0, 0]]
        centroids = (rows[support] - first).mean(axis=1)
        guess = distances(rows[queries.ravel()] - first, centroids).argmin(axis=1)
        accuracies.append((guess == np.repeat(np.arange(len(support)), queries.shape[1])).mean())
    return np.array(accuracies)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("classifier", ["prototype", "simpleshot-un", "simpleshot-cl2n"])
@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot__equals_float64(pixels: Samples, case: str, classifier: str, shots: int) -> None:
    rows = moved(pixels.features, case)
    base = rows.mean(axis=0, dtype=np.float64) if classifier == "simpleshot-cl2n" else None
    episodes = draw_episodes(pixels.labels, num_classes=10, shots=shots, episodes=60, seed=1)
    exact = rows.astype(np.float64)
    exact = exact if classifier == "simpleshot-un" else unit(exact if base is None else exact - base)
    ours = classify_episodes(rows, episodes, classifier=classifier, base_mean=base)
    assert ours.episode_accuracies == pytest.approx(nearest_means(exact, episodes), abs=1e-7)


def logistic_reference(shown: NDArray[np.float64], labels: NDArray[np.int64], asked: NDArray[np.float64]) -> NDArray:
    """Return the classes of `asked` by scikit-learn's minimum at C = 1, or where it is rounding by a fixed point.

    Of features of size s the weights are C (Y - P) X, and P is that of no features but for s^2.
    """
    middle = shown.mean(axis=0)
    shown, asked = shown - middle, asked - middle
    if np.abs(shown).max() > 1e-2:
        model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=200)
        return model.fit(shown, labels).predict(asked)
    ways = labels.max() + 1
    halves, targets = (2 if ways == 2 else 1), np.eye(ways)[labels]
    dual = np.zeros_like(targets)
    for _ in range(20):
        logits = shown @ (shown.T @ dual)
        dual = (targets - np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)) / halves
        dual -= dual.mean(axis=0)
    return (asked @ (shown.T @ dual)).argmax(axis=1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ways", [2, 5])
def test_few_shot__logistic_regression_equals_float64(pixels: Samples, case: str, ways: int) -> None:
    rows = moved(pixels.features, case)
    episodes = draw_episodes(pixels.labels, num_classes=10, ways=ways, shots=5, queries=8, episodes=12, seed=1)
    ours = classify_episodes(rows, episodes, classifier="logreg")
    exact, truth, theirs = unit(rows), np.repeat(np.arange(ways), 8), []
    for support, queries in zip(episodes.support, episodes.queries, strict=True):
        guess = logistic_reference(exact[support.ravel()], np.repeat(np.arange(ways), 5), exact[queries.ravel()])
        theirs.append((guess == truth).mean())
    off = np.abs(ours.episode_accuracies - theirs)
    assert off.max() <= 1.01 / (8 * ways)
    assert (off > 1e-6).sum() <= 1


def ridge_reference(train: Samples, test: Samples, penalty: float) -> NDArray[np.int64]:
    rows, targets = train.features.astype(np.float64), 2.0 * np.eye(10)[train.labels] - 1
    mean, level = rows.mean(axis=0), targets.mean(axis=0)
    left, values, right = np.linalg.svd(rows - mean, full_matrices=False)
    shrunk = values / (values**2 + penalty)
    weight = right.T @ (shrunk[:, None] * (left.T @ (targets - level)))
    return ((test.features.astype(np.float64) - mean) @ weight + (level - level.max())).argmax(axis=1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("small", [True, False])
def test_ridge__equals_float64(pixels: Samples, case: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = split(moved(pixels.features, case), pixels.labels)
    penalty = 10.0 * {"huge": 1e60, "minute": 1e-60}.get(case, 1.0)
    if not small:
        monkeypatch.setattr("hjepa_eval.probes.linear.ridge._SMALL", 0)
    ours = ridge_regression(train, test, num_classes=10, penalties=[penalty])
    assert (ours.predictions == ridge_reference(train, test, penalty)).all()


@pytest.mark.parametrize("case", CASES)
def test_logistic_regression__is_certain_and_equals_newtons_method_in_float64(pixels: Samples, case: str) -> None:
    train, test = split(moved(pixels.features, case), pixels.labels)
    size = {"huge": 1e30, "minute": 1e-30}.get(case, 1.0)
    ours = logistic_regression(train, test, num_classes=10, cs=[0.1 / size**2])
    assert ours.converged
    if case == "far rows":  # scikit-learn's solvers give up; a fit of ours to a tenth of the bound stands for them
        sure = logistic_regression(train, test, num_classes=10, cs=[0.1], tol=1e-13)
        assert sure.gap < 1e-5
        assert (ours.predictions != sure.predictions).sum() <= 1
        return
    middle = train.features.astype(np.float64).mean(axis=0)
    model = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-10, max_iter=500)
    model.fit((train.features - middle) / size, train.labels)
    assert (ours.predictions != model.predict((test.features - middle) / size)).sum() <= 1


@pytest.mark.parametrize("classifier", ["knn", "logreg", "ridge"])
@pytest.mark.parametrize("case", ["shift", "huge", "minute", "tiny rows", "half"])
def test_low_shot__sizes_and_common_parts_change_little_after_normalising(
    pixels: Samples, case: str, classifier: str
) -> None:
    plain, changed = (split(moved(pixels.features, name), pixels.labels) for name in ("plain", case))
    scaling = "centred-l2"
    subset = [np.arange(0, TRAIN, 2)]
    results = [
        low_shot(*pair, num_classes=10, subsets=subset, classifier=classifier, scaling=scaling, grid=[10.0])
        for pair in (plain, changed)
    ]
    assert (results[0].predictions[0] == results[1].predictions[0]).mean() >= 0.98


def predictions(probe: str, train: Samples, test: Samples) -> NDArray[np.int64]:
    if probe == "knn":
        return knn(train, test, num_classes=10, ks=(10,)).predictions[10]
    if probe == "ridge":
        return ridge_regression(train, test, num_classes=10, penalties=[1.0]).predictions
    return logistic_regression(train, test, num_classes=10, cs=[0.1]).predictions


@pytest.mark.parametrize("probe", ["knn", "ridge", "logreg"])
@DRAWS
@given(st.randoms(use_true_random=False))
def test_probes__order_of_train_and_names_of_classes_change_nothing(pixels: Samples, probe: str, draw) -> None:
    train, test = split(pixels.features, pixels.labels)
    order, names = np.arange(TRAIN), np.arange(10)
    draw.shuffle(order)
    draw.shuffle(names)
    plain = predictions(probe, train, test)
    renamed = Samples(train.features[order], names[train.labels[order]])
    assert (predictions(probe, renamed, Samples(test.features, names[test.labels])) == names[plain]).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@DRAWS
@given(
    shift=st.sampled_from([0.0, 1.0, 1e2, 1e4, 1e5]),
    exponent=st.integers(-25, 25),
    far=st.sampled_from([1.0, 1e4, 1e9]),
    row=st.integers(0, TRAIN + TEST - 1),
)
def test_knn__any_of_these_together_equal_float64(
    pixels: Samples, metric: str, shift: float, exponent: int, far: float, row: int
) -> None:
    rows = (pixels.features.astype(np.float64) + shift) * 10.0**exponent
    rows[row] *= far
    train, test = split(rows.astype(np.float32), pixels.labels)
    weighting = "exponential" if metric == "cosine" else "inverse"
    ours = knn(train, test, num_classes=10, ks=(5,), metric=metric, weighting=weighting)
    assert (ours.predictions[5] == neighbours_vote(train, test, metric, 5)).mean() >= 0.99


@DRAWS
@given(st.integers(2, 6), st.integers(5, 60), st.integers(0, 2**32 - 1))
def test_metrics__order_names_and_shifts_change_nothing(classes: int, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes))
    guess, order, names = logits.argmax(axis=1), generator.permutation(count), generator.permutation(classes)
    moved_logits = logits[order][:, np.argsort(names)] + 1e6
    assert accuracy(guess, labels) == accuracy(names[guess[order]], names[labels[order]])
    assert balanced_accuracy(guess, labels, num_classes=classes) == pytest.approx(
        balanced_accuracy(names[guess[order]], names[labels[order]], num_classes=classes)
    )
    assert per_class_accuracy(guess, labels, num_classes=classes) == {
        int(np.flatnonzero(names == label)[0]): interval
        for label, interval in per_class_accuracy(names[guess], names[labels], num_classes=classes).items()
    }
    assert topk_accuracy(moved_logits, names[labels[order]], k=2) == topk_accuracy(logits, labels, k=2)
    assert softmax(moved_logits) == pytest.approx(softmax(logits)[order][:, np.argsort(names)], abs=1e-9)
    assert fit_temperature(moved_logits, names[labels[order]]) == pytest.approx(
        fit_temperature(logits, labels), rel=1e-4
    )
    assert expected_calibration_error(softmax(moved_logits), names[labels[order]]) == pytest.approx(
        expected_calibration_error(softmax(logits), labels), abs=1e-6
    )
    other = generator.random(count) < 0.5
    assert (
        compare_correct(guess == labels, other).p_value
        == compare_correct((guess == labels)[order], other[order]).p_value
    )


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_linear_map__sizes_and_common_parts_change_nothing(shift: float, size: float) -> None:
    generator = np.random.default_rng(0)
    source = generator.normal(size=(200, 6))
    target = source @ generator.normal(size=(6, 4)) + 0.5 * generator.normal(size=(200, 4))
    plain = linear_map_r2(source, target)
    assert linear_map_r2((source + shift) * size, (target + shift) / size) == pytest.approx(plain, abs=1e-3)


def sgd_reference(rows: Rows, labels: NDArray[np.int64], head: Head, recipe: Recipe, asked: Rows) -> NDArray[np.int64]:
    """Return the classes of `asked` by stochastic gradient descent of one head in float64, momentum and all."""
    exact, dims = rows.astype(np.float64), rows.shape[1]
    weight, bias = np.random.default_rng(0).normal(0, 0.01, (10, dims)), np.zeros(10)
    speed, drift = np.zeros_like(weight), np.zeros(10)
    mean, variance = np.zeros(dims), np.ones(dims)
    per_pass = len(rows) // recipe.batch
    for step in range(recipe.steps):
        number, place = divmod(step, per_pass)
        chosen = np.random.default_rng((0, number)).permutation(len(rows))[place * recipe.batch :][: recipe.batch]
        shown = exact[chosen]
        if head.batch_norm:
            middle, spread = shown.mean(axis=0), shown.var(axis=0)
            mean += 0.1 * (middle - mean)
            variance += 0.1 * (spread * recipe.batch / (recipe.batch - 1) - variance)
            shown = (shown - middle) / np.sqrt(spread + 1e-6)
        logits = shown @ weight.T + bias
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = error / error.sum(axis=1, keepdims=True) - np.eye(10)[labels[chosen]]
        speed = 0.9 * speed + error.T @ shown / len(shown) + head.weight_decay * weight
        drift = 0.9 * drift + error.mean(axis=0) + head.weight_decay * bias
        weight, bias = (
            weight - head.lr * recipe.factor(step) * speed,
            bias - head.lr * recipe.factor(step) * drift,
        )
    asked = asked.astype(np.float64)
    asked = (asked - mean) / np.sqrt(variance + 1e-6) if head.batch_norm else asked
    return (asked @ weight.T + bias).argmax(axis=1)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_sgd_heads__equal_float64_or_say_that_they_diverged(pixels: Samples, case: str, norm: bool) -> None:
    train, test = split(moved(pixels.features / 16, case), pixels.labels)
    # Steps that keep to the size of what is read, which heads without normalisation do not see to themselves.
    size = 1.0 if norm else float(np.abs(train.features.astype(np.float64)).max())
    head = Head(0.1 / max(size, 1.0) ** 2, weight_decay=1e-4, batch_norm=norm)
    if not head.lr > 1e-30:
        return
    # Running means of fewer steps lag behind a large common part, in float64 too.
    recipe = Recipe("sgd", batch=64, steps=240, warmup=5)
    trained = train_heads([train.features], train.labels, num_classes=10, heads=[head], recipe=recipe)
    if not trained.finite[0]:
        assert case == "huge"
        return
    ours = trained.scores(test.features, 0).argmax(axis=1)
    theirs = sgd_reference(train.features, train.labels, head, recipe, test.features)
    assert (ours == theirs).mean() >= 0.98

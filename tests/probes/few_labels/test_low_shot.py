"""Draws of few labels, and probes that see nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hjepa_eval.errors import ProbeError, UnknownNameError
from hjepa_eval.metrics.accuracy import accuracy
from hjepa_eval.metrics.calibration import softmax
from hjepa_eval.probes.few_labels.low_shot import draw_subset, low_shot
from hjepa_eval.probes.few_labels.low_shot_protocols import LOW_SHOT_PROTOCOLS, low_shot_protocol
from hjepa_eval.probes.holdout import stratified_folds
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import DEFAULT_CS
from hjepa_eval.probes.linear.logistic_path import fit_logistic
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.linear.scaling import scaled
from hjepa_eval.probes.samples import Samples

LABELS = np.array([0] * 40 + [1] * 10 + [2] * 3).astype(np.int64)


def draws(labels: np.ndarray, per_class: int, count: int = 3) -> list[np.ndarray]:
    return [draw_subset(labels, per_class=per_class, num_classes=10, seed=seed) for seed in range(count)]


def test_draw_subset__a_fraction_is_rounded_per_class_and_at_least_one() -> None:
    chosen = draw_subset(LABELS, fraction=0.12, num_classes=3, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == [5, 1, 1]
    assert draw_subset(LABELS, fraction=1.0, num_classes=3, seed=0).tolist() == list(range(53))


def test_draw_subset__a_number_per_class_is_exact_sorted_and_distinct() -> None:
    chosen = draw_subset(LABELS, per_class=3, num_classes=3, seed=0)
    assert chosen.dtype == np.int64
    assert np.bincount(LABELS[chosen]).tolist() == [3, 3, 3]
    assert (np.diff(chosen) > 0).all()


def test_draw_subset__seeds_differ_and_repeat() -> None:
    one, same, other = (draw_subset(LABELS, fraction=0.2, num_classes=3, seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_draw_subset__the_smaller_is_a_part_of_the_larger() -> None:
    small = draw_subset(LABELS, per_class=2, num_classes=3, seed=4)
    large = draw_subset(LABELS, fraction=0.7, num_classes=3, seed=4)
    assert set(small) <= set(large)


def test_draw_subset__renamed_classes_give_the_same_images() -> None:
    renamed = np.array([2, 0, 1])[LABELS]
    for size in ({"fraction": 0.3}, {"per_class": 2}):
        assert (
            draw_subset(LABELS, **size, num_classes=3, seed=0) == draw_subset(renamed, **size, num_classes=3, seed=0)
        ).all()


def test_draw_subset__every_sample_of_a_class_is_as_likely() -> None:
    drawn = np.concatenate([draw_subset(LABELS, per_class=1, num_classes=3, seed=seed) for seed in range(600)])
    assert np.bincount(drawn[LABELS[drawn] == 1], minlength=50)[40:].min() > 30
    assert np.bincount(drawn[LABELS[drawn] == 2], minlength=53)[50:].min() > 150


def test_draw_subset__refuses_sizes_that_do_not_exist() -> None:
    def draw(**size: float) -> None:
        draw_subset(LABELS, num_classes=3, seed=0, class_names=["cat", "dog", "emu"], **size)

    with pytest.raises(ProbeError, match=r"4 train samples per class .* class 2 \('emu'\) has 3; use 1 to 3"):
        draw(per_class=4)
    with pytest.raises(ProbeError, match="0 train samples per class cannot be drawn"):
        draw(per_class=0)
    for size in (0.0, 1.5, float("nan")):
        with pytest.raises(ProbeError, match="above 0 and up to 1"):
            draw(fraction=size)
    for sizes in ({}, {"fraction": 0.1, "per_class": 1}):
        with pytest.raises(ProbeError, match="either a fraction or a number"):
            draw(**sizes)
    with pytest.raises(ProbeError, match="class 3 has no train sample to draw"):
        draw_subset(LABELS, per_class=1, num_classes=4, seed=0)


def test_low_shot__mean_and_std_are_those_of_the_draws(digits) -> None:
    train, test = digits
    subsets = draws(train.labels, 2)
    found = low_shot(train, test, num_classes=10, subsets=subsets, classifier="knn")
    each = [float((guess == test.labels).mean()) for guess in found.predictions]
    assert found.score.values == pytest.approx(each)
    assert found.score.mean == pytest.approx(np.mean(each))
    assert found.score.std == pytest.approx(np.std(each, ddof=1))
    assert found.score.interval.num_samples == 3
    assert found.scores == tuple(accuracy(guess, test.labels) for guess in found.predictions)
    assert (found.sizes, found.parameter) == ((20, 20, 20), "k")


def test_low_shot__one_draw_has_its_wilson_interval_and_no_std(digits) -> None:
    train, test = digits
    found = low_shot(train, test, num_classes=10, subsets=draws(train.labels, 5, 1), classifier="ridge")
    assert found.score.std is None
    assert found.score.interval == found.scores[0]
    assert found.score.interval.method == "wilson 95%"


def test_low_shot__knn_on_all_of_train_is_knn(digits) -> None:
    train, test = digits
    everything = np.arange(len(train))
    arguments = low_shot_protocol("knn-lowshot").arguments()
    found = low_shot(train, test, num_classes=10, subsets=[everything], **arguments)
    assert (found.predictions[0] == knn(train, test, num_classes=10, ks=[20]).predictions[20]).all()


def test_low_shot__one_image_per_class_is_the_nearest_image(digits) -> None:
    """With weights that fall with distance and one vote per class, 10 clipped neighbours say what the nearest says."""
    train, test = digits
    (subset,) = draws(train.labels, 1, 1)
    found = low_shot(train, test, num_classes=10, subsets=[subset], classifier="knn")
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (train.take(subset), test)]
    nearest = train.labels[subset][(unit[1] @ unit[0].T).argmax(axis=1)]
    assert (found.predictions[0] == nearest).all()
    assert found.chosen == (10,)
    assert found.notes == ("k = 20 clipped to the 10 neighbours that the train set has",)


def test_low_shot__k_is_chosen_by_leave_one_out(digits) -> None:
    train, test = digits
    subsets = draws(train.labels, 6)
    found = low_shot(train, test, num_classes=10, subsets=subsets, classifier="knn", scaling="none", grid=[1, 5, 40])
    for subset, k in zip(subsets, found.chosen, strict=True):
        left_out = knn(train.take(subset), num_classes=10, ks=[1, 5, 40], leave_one_out=True)
        assert left_out.scores[k].value == max(score.value for score in left_out.scores.values())


def test_low_shot__c_and_accuracy_equal_scikit_learns_leave_one_out(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many folds as samples per class, every fold leaves out one sample of each class."""
    train, test = digits
    monkeypatch.setattr("hjepa_eval.probes.holdout._FOLDS", 4)
    subsets, grid = draws(train.labels, 4, 2), [0.1, 10.0, 1000.0]
    found = low_shot(train, test, num_classes=10, subsets=subsets, classifier="logreg", grid=grid, seed=3)

    def fit(c: float, part: Samples) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(part.features.astype(float), part.labels)

    for subset, chosen, score in zip(subsets, found.chosen, found.scores, strict=True):
        bank, queries, _ = scaled(train.take(subset), test, "l2")
        order = np.random.default_rng(3).permutation(40)
        of_class = [order[bank.labels[order] == label] for label in range(10)]
        right = dict.fromkeys(grid, 0)
        for left_out in range(4):
            held = np.array([members[left_out] for members in of_class])
            kept = bank.take(np.setdiff1d(np.arange(40), held))
            for c in grid:
                right[c] += int((fit(c, kept).predict(bank.features[held]) == bank.labels[held]).sum())
        assert len(set(right.values())) > 1
        assert chosen == max(grid, key=lambda c: (right[c], -abs(np.log(c / 10))))
        theirs = fit(chosen, bank).score(queries.features.astype(float), queries.labels)
        assert score.value == pytest.approx(theirs, abs=1.5 / len(test))


def test_stratified_folds__share_out_every_class() -> None:
    fold = stratified_folds(LABELS, folds=3, seed=0)
    table = np.array([np.bincount(fold[label == LABELS], minlength=3) for label in range(3)])
    assert np.sort(table, axis=1).tolist() == [[13, 13, 14], [3, 3, 4], [1, 1, 1]]
    assert (fold != stratified_folds(LABELS, folds=3, seed=1)).any()


def test_low_shot__one_fold_is_enough_for_many_samples(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits
    fits = []

    def counting(features: np.ndarray, labels: np.ndarray, **settings: object) -> object:
        fits.append(len(labels))
        return fit_logistic(features, labels, **settings)

    monkeypatch.setattr("hjepa_eval.probes.holdout.fit_logistic", counting)
    settings = {"num_classes": 10, "subsets": draws(train.labels, 10, 1), "grid": [1.0, 10.0]}
    low_shot(train, test, **settings)
    assert fits == [80] * 5
    monkeypatch.setattr("hjepa_eval.probes.holdout._ENOUGH", 21)
    low_shot(train, test, **settings)
    assert fits[5:] == [80] * 2


def test_low_shot__of_equal_accuracies_the_usual_c_is_taken(digits) -> None:
    """Classes so far apart that every C is right."""
    train, test = (Samples(np.eye(10, dtype=np.float32)[s.labels], s.labels) for s in digits)
    found = low_shot(train, test, num_classes=10, subsets=draws(train.labels, 4, 1), classifier="logreg")
    assert (found.chosen, found.score.mean) == ((10.0,), 1.0)


def test_low_shot__a_single_sample_fixes_c_and_says_so(digits) -> None:
    train, test = digits
    found = low_shot(train, test, num_classes=10, subsets=draws(train.labels, 1, 2), classifier="logreg")
    assert found.chosen == (10.0, 10.0)
    assert 10.0 in DEFAULT_CS
    assert found.notes == ("C = 10 was not chosen: 10 classes have a single sample, and none can be held out",)
    near = low_shot(train, test, num_classes=10, subsets=draws(train.labels, 1, 1), classifier="logreg", grid=[0.1, 50])
    assert near.chosen == (50.0,)


def test_low_shot__a_note_about_some_draws_counts_them(digits) -> None:
    train, test = digits
    lone = np.flatnonzero(train.labels == 3)[0]
    full = draw_subset(train.labels, per_class=4, num_classes=10, seed=0)
    uneven = np.append(full[train.labels[full] != 3], lone)
    found = low_shot(train, test, num_classes=10, subsets=[full, uneven], classifier="ridge")
    assert found.notes == ("1 class has a single sample, which leave-one-out can never get right (1 of 2 draws)",)


def test_low_shot__the_penalty_is_ridges_leave_one_out_choice(digits) -> None:
    train, test = digits
    subsets = draws(train.labels, 5)
    found = low_shot(train, test, num_classes=10, subsets=subsets, classifier="ridge", scaling="none")
    alone = [ridge_regression(train.take(subset), test, num_classes=10) for subset in subsets]
    assert found.chosen == tuple(each.penalty for each in alone)
    assert all((ours == each.predictions).all() for ours, each in zip(found.predictions, alone, strict=True))


@pytest.mark.parametrize("classifier", ["knn", "logreg", "ridge"])
def test_low_shot__the_test_set_has_no_part_in_the_choice(digits, classifier: str) -> None:
    train, test = digits
    settings = {"num_classes": 10, "subsets": draws(train.labels, 4), "classifier": classifier, "grid": [1, 10, 30]}
    wrong = Samples(test.features, (test.labels + 1) % 10)
    ours, scrambled = low_shot(train, test, **settings), low_shot(train, wrong, **settings)
    assert ours.chosen == scrambled.chosen
    assert all((a == b).all() for a, b in zip(ours.predictions, scrambled.predictions, strict=True))


@pytest.mark.parametrize("name", list(LOW_SHOT_PROTOCOLS))
def test_low_shot_protocol__runs_on_real_digits_whatever_classes_are_called(digits, name: str) -> None:
    train, test = digits
    protocol = low_shot_protocol(name)
    found = low_shot(train, test, num_classes=10, subsets=draws(train.labels, 5, 2), **protocol.arguments())
    assert found.score.mean > 0.7
    assert set(found.chosen) <= set(protocol.grid)
    assert protocol.source
    assert protocol.deviations
    names = np.random.default_rng(1).permutation(10)
    renamed = [Samples(s.features, names[s.labels]) for s in (train, test)]
    again = low_shot(*renamed, num_classes=10, subsets=draws(renamed[0].labels, 5, 2), **protocol.arguments())
    assert [(names[a] == b).mean() for a, b in zip(found.predictions, again.predictions, strict=True)] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["dino-lowshot", "msn-lowshot", "knn-lowshot", "ridge-lowshot"])
def test_low_shot_protocol__the_order_of_train_is_no_matter(digits, name: str) -> None:
    train, test = digits
    arguments = low_shot_protocol(name).arguments()
    (subset,) = draws(train.labels, 10, 1)
    order = np.random.default_rng(0).permutation(len(train))
    moved = np.sort(np.argsort(order)[subset])
    found = low_shot(train, test, num_classes=10, subsets=[subset], **arguments)
    again = low_shot(train.take(order), test, num_classes=10, subsets=[moved], **arguments)
    assert (found.predictions[0] == again.predictions[0]).all()


def test_low_shot_protocol__ridge_agrees_with_big_visions_formula(digits) -> None:
    """Its bias, a constant feature of 100 with penalty 1024, differs from a free intercept by a hair."""
    train, test = digits
    (subset,) = draws(train.labels, 10, 1)
    bank = train.take(subset)
    mean, deviation = bank.features.mean(axis=0), bank.features.std(axis=0) + 1e-5
    rows, queries = (
        np.pad((f - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0) for f in (bank.features, test.features)
    )
    targets = 2.0 * np.eye(10)[bank.labels] - 1
    weight = np.linalg.solve(rows.T @ rows + 1024 * np.eye(rows.shape[1]), rows.T @ targets)
    theirs = (queries @ weight).argmax(axis=1)
    found = low_shot(train, test, num_classes=10, subsets=[subset], **low_shot_protocol("ridge-lowshot").arguments())
    assert (found.predictions[0] == theirs).mean() >= 0.995
    assert found.notes == ()


def test_low_shot_protocol__dino_differs_little_from_a_fit_without_intercept(digits) -> None:
    train, test = digits
    (subset,) = draws(train.labels, 10, 1)
    found = low_shot(train, test, num_classes=10, subsets=[subset], **low_shot_protocol("dino-lowshot").arguments())
    bank, queries, _ = scaled(train.take(subset), test, "l2")
    plain = LogisticRegression(C=10.0, fit_intercept=False, max_iter=5000, tol=1e-8)
    theirs = plain.fit(bank.features.astype(float), bank.labels).predict(queries.features.astype(float))
    assert (found.predictions[0] == theirs).mean() > 0.97


@pytest.mark.parametrize(("name", "strength"), [("dino-lowshot", 0.1), ("msn-lowshot", 0.0025)])
def test_low_shot_protocol__its_c_minimises_cyanures_objective(digits, name: str, strength: float) -> None:
    """The gradient of (1/n) sum_i CE_i + (lambda / 2) |W|^2 is zero for lambda = strength / n."""
    protocol = low_shot_protocol(name)
    (subset,) = draws(digits[0].labels, 5, 1)
    bank, _, _ = scaled(digits[0].take(subset), digits[1], protocol.scaling)
    path = fit_logistic(bank.features, bank.labels, num_classes=10, cs=protocol.grid, tol=1e-12)
    error = softmax(path.scores(bank.features, 0)) - np.eye(10)[bank.labels]
    shrinking = strength / len(bank) * path.weight[0]
    gradient = error.T @ bank.features / len(bank) + shrinking
    assert np.linalg.norm(gradient) < 1e-2 * np.linalg.norm(shrinking)


def test_low_shot_protocol__a_misspelt_name_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dino-lowshot'"):
        low_shot_protocol("dino-lowshots")


def test_scaled__equals_the_hand_computed_rows() -> None:
    bank = Samples(np.array([[3, 4], [0, 0], [6, 8]], np.float32), np.array([0, 1, 1]))
    test = Samples(np.array([[1, 3]], np.float32), np.array([0]))
    unit, _, notes = scaled(bank, test, "l2")
    assert unit.features == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0.6, 0.8]]))
    assert notes == ("1 of 3 train features are zero vectors; their cosine counts as 0",)
    _, centred, _ = scaled(bank, test, "centred-l2")
    assert centred.features == pytest.approx(np.array([[-1, 1]]) / np.sqrt(2))
    standard, queries, _ = scaled(bank, test, "standardised")
    assert standard.features.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert queries.features == pytest.approx(np.array([[-2 / np.sqrt(6), -1 / (4 * np.sqrt(2 / 3))]]), rel=1e-4)
    same, _, _ = scaled(bank, test, "none")
    assert same is bank


def test_scaled__a_constant_row_is_zero_once_centred() -> None:
    rows = Samples(np.full((2, 7), 0.1, np.float32), np.array([0, 1]))
    assert not scaled(rows, rows, "centred-l2")[0].features.any()


def test_low_shot__refuses_subsets_that_are_no_rows_of_train(digits) -> None:
    train, test = digits
    for bad in ([0, 0, 1], [-1, 2], [0, len(train)], [], [0.5, 1.0]):
        with pytest.raises(ProbeError, match=r"subset 0 must hold distinct row numbers of the 1297"):
            low_shot(train, test, num_classes=10, subsets=[np.array(bad)])
    with pytest.raises(ProbeError, match="at least one subset"):
        low_shot(train, test, num_classes=10, subsets=[])
    with pytest.raises(ProbeError, match=r"train samples are of class"):
        low_shot(train, test, num_classes=10, subsets=[np.flatnonzero(train.labels == 4)])


def test_low_shot__refuses_unknown_names_and_grids(digits) -> None:
    train, test = digits
    settings = {"num_classes": 10, "subsets": draws(train.labels, 2, 1)}
    with pytest.raises(UnknownNameError, match="did you mean 'logreg'"):
        low_shot(train, test, **settings, classifier="logregs")
    with pytest.raises(UnknownNameError, match="did you mean 'centred-l2'"):
        low_shot(train, test, **settings, scaling="centered-l2")
    for classifier, grid, words in (
        ("knn", [2.5], "every k must be a whole number above 0"),
        ("logreg", [], "every C must be a number above 0"),
        ("logreg", [0.0, 1.0], "every C must be a number above 0"),
        ("ridge", [float("inf")], "every penalty must be a number above 0"),
    ):
        with pytest.raises(ProbeError, match=words):
            low_shot(train, test, **settings, classifier=classifier, grid=grid)
    broken = Samples(train.features.copy(), train.labels)
    broken.features[7, 0] = np.nan
    with pytest.raises(ProbeError, match="NaN"):
        low_shot(broken, test, **settings)

"""Logistic regression against scikit-learn's optimum, autograd, and what must not change a score."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.linear.lbfgs import minimise
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.logistic_path import fit_logistic
from hjepa_eval.probes.linear.softmax_loss import SoftmaxLoss
from hjepa_eval.probes.samples import Samples

SEVEN_CS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


def objective(weight: np.ndarray, bias: np.ndarray, samples: Samples, c: float) -> float:
    logits = samples.features.astype(np.float64) @ weight.T.astype(np.float64) + bias
    own = logits[np.arange(len(samples)), samples.labels]
    return float(c * (np.logaddexp.reduce(logits, axis=1) - own).sum() + 0.5 * (weight.astype(np.float64) ** 2).sum())


def test_fit_logistic__reaches_scikit_learns_optimum_at_seven_cs(digits) -> None:
    """Its newton-cg, because its lbfgs stops 3e-4 above the minimum here even after 2,000 iterations."""
    train, test = digits
    path = fit_logistic(train.features, train.labels, num_classes=10, cs=SEVEN_CS)
    assert path.converged.all()
    agreements = []
    for i, c in enumerate(SEVEN_CS):
        reference = LogisticRegression(C=c, solver="newton-cg", max_iter=500, tol=1e-8)
        reference.fit(train.features.astype(float), train.labels)
        theirs = objective(reference.coef_, reference.intercept_, train, c)
        ours = objective(path.weight[i], path.bias[i], train, c)
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert path.objective[i] == pytest.approx(ours, rel=1e-5)
        agreements.append((path.scores(test.features, i).argmax(axis=1) == reference.predict(test.features)).mean())
    assert np.mean(agreements) >= 0.999


def test_fit_logistic__a_common_offset_of_all_features_does_not_matter(digits) -> None:
    """The bias is free, so the minimum is the same; a solver that does not centre would crawl."""
    train = digits[0]
    moved = Samples(train.features + np.float32(50), train.labels)
    paths = [fit_logistic(s.features, s.labels, num_classes=10, cs=SEVEN_CS) for s in (train, moved)]
    assert paths[0].objective == pytest.approx(paths[1].objective, rel=1e-5)
    for i, c in enumerate(SEVEN_CS):
        assert objective(paths[1].weight[i], paths[1].bias[i], moved, c) == pytest.approx(
            paths[0].objective[i], rel=1e-4
        )


def test_fit_logistic__float32_finds_the_minimum_of_float64(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits
    exact = fit_logistic(train.features, train.labels, num_classes=10, cs=SEVEN_CS, tol=1e-10)
    monkeypatch.setattr("hjepa_eval.probes.linear.softmax_loss._SMALL", 0)
    rough = fit_logistic(train.features, train.labels, num_classes=10, cs=SEVEN_CS)
    for i, c in enumerate(SEVEN_CS):
        ours, best = (objective(path.weight[i], path.bias[i], train, c) for path in (rough, exact))
        assert ours == pytest.approx(best, rel=2e-5)
        same = rough.scores(test.features, i).argmax(axis=1) == exact.scores(test.features, i).argmax(axis=1)
        assert same.mean() >= 0.998


def test_fit_logistic__a_path_equals_fits_of_each_c_in_any_order(digits) -> None:
    train = digits[0]
    cs = (1.0, 1e-3, 30.0, 0.05)
    path = fit_logistic(train.features, train.labels, num_classes=10, cs=cs, tol=1e-9)
    assert path.cs.tolist() == list(cs)
    for i, c in enumerate(cs):
        alone = fit_logistic(train.features, train.labels, num_classes=10, cs=[c], tol=1e-9)
        assert path.objective[i] == pytest.approx(alone.objective[0], rel=1e-6)
        assert np.abs(path.weight[i] - alone.weight[0]).max() < 5e-3 * np.abs(alone.weight[0]).max()


def test_fit_logistic__two_classes_and_duplicated_columns(digits) -> None:
    """A singular covariance: the penalty still makes the minimum unique, and equal columns share their weight."""
    train = digits[0].take(np.flatnonzero(digits[0].labels < 2))
    doubled = np.concatenate([train.features, train.features], axis=1)
    path = fit_logistic(doubled, train.labels, num_classes=2, cs=[0.1], tol=1e-10)
    assert np.allclose(path.weight[0, :, :64], path.weight[0, :, 64:], atol=1e-5)
    assert np.allclose(path.weight[0, 0], -path.weight[0, 1], atol=1e-5)


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_logistic_regression__two_classes_are_scikit_learns_at_the_same_c(digits, c: float) -> None:
    """It fits one weight vector, a softmax has two, whose penalty on the difference is half."""
    train, test = (each.take(np.flatnonzero((each.labels == 3) | (each.labels == 8))) for each in digits)
    # Absent classes change nothing, as scikit-learn knows none.
    ours = logistic_regression(train, test, num_classes=10, cs=[c])
    theirs = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10).fit(
        train.features.astype(float), train.labels
    )
    assert (ours.predictions == theirs.predict(test.features.astype(float))).all()
    assert ours.weight[8] - ours.weight[3] == pytest.approx(theirs.coef_[0], abs=2e-3 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_fit_logistic__a_far_row_leaves_the_fit_certain(
    digits, c: float, float32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-BFGS alone ended 7e-3 above the minimum and called itself converged."""
    rows = digits[0].features.copy()
    rows[7] *= 1e4
    best = fit_logistic(rows, digits[0].labels, num_classes=10, cs=[c], certain=True, tol=1e-12)
    assert best.converged[0]
    if float32:
        monkeypatch.setattr("hjepa_eval.probes.linear.softmax_loss._SMALL", 0)
    ours = fit_logistic(rows, digits[0].labels, num_classes=10, cs=[c], certain=True)
    assert ours.converged[0]
    assert ours.objective[0] == pytest.approx(best.objective[0], rel=2e-4)


def test_fit_logistic__the_gap_bounds_the_distance_from_the_minimum(digits) -> None:
    """At every stage of a fit, on unlike features, against scikit-learn's minimum."""
    train = digits[0]
    unit = train.features / np.linalg.norm(train.features, axis=1, keepdims=True)
    for rows, c in ((train.features, 0.01), (unit, 10.0), (unit, 1000.0)):
        reference = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=500)
        reference.fit(rows.astype(float), train.labels)
        best = objective(reference.coef_, reference.intercept_, Samples(rows, train.labels), c)
        for iterations in (1, 5, 20, 60):
            path = fit_logistic(rows, train.labels, num_classes=10, cs=[c], max_iter=iterations)
            assert 0 <= path.objective[0] / best - 1 + 1e-9 <= path.gap[0] + 1e-8


def test_softmax_loss__gradient_equals_autograd(digits) -> None:
    train = digits[0].take(np.arange(80))
    loss = SoftmaxLoss(train.features, train.labels, 10)
    penalty = torch.tensor([0.1, 0.003], dtype=torch.float64)
    weights = torch.randn(
        2, 10, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    labels = torch.from_numpy(train.labels)
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(loss.rotated @ w.T, labels) + 0.5 * p * w[:, :-1].square().sum()
            for w, p in zip(weights, penalty, strict=True)
        ]
    )
    expected.sum().backward()
    value, gradient = loss.evaluate(weights.detach(), penalty)
    assert torch.allclose(value, expected.detach(), rtol=1e-12)
    assert torch.allclose(gradient, weights.grad, rtol=1e-9, atol=1e-12)


def test_softmax_loss__diagonal_equals_autograd(digits) -> None:
    train = digits[0].take(np.arange(60))
    loss = SoftmaxLoss(train.features[:, 20:24], train.labels, 10)
    penalty = torch.tensor([0.1], dtype=torch.float64)
    weights = torch.randn(1, 10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    labels = torch.from_numpy(train.labels)

    def value(flat: torch.Tensor) -> torch.Tensor:
        w = flat.view(10, 5)
        return torch.nn.functional.cross_entropy(loss.rotated @ w.T, labels) + 0.05 * w[:, :-1].square().sum()

    hessian = torch.autograd.functional.hessian(value, weights.flatten())
    assert torch.allclose(loss.diagonal(weights, penalty).flatten(), hessian.diagonal(), rtol=1e-9)


def test_softmax_loss__blocks_do_not_matter(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train = digits[0]
    whole = fit_logistic(train.features, train.labels, num_classes=10, cs=[0.1, 1.0])
    monkeypatch.setattr("hjepa_eval.probes.linear.softmax_loss._BLOCK_ELEMENTS", 4000)
    pieces = fit_logistic(train.features, train.labels, num_classes=10, cs=[0.1, 1.0])
    assert np.allclose(whole.weight, pieces.weight, atol=1e-6)


def test_minimise__solves_quadratics_of_unlike_conditioning() -> None:
    curvature = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1e3, 1e6]], dtype=torch.float64)
    target = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], dtype=torch.float64)

    def evaluate(points: torch.Tensor, problems: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gap = points - target[problems]
        return 1 + 0.5 * (curvature[problems] * gap.square()).sum(dim=1), curvature[problems] * gap

    start = torch.zeros(2, 3, dtype=torch.float64)
    found = minimise(evaluate, lambda points, _: torch.ones_like(points), start, trivial=10.0, tol=1e-14, max_iter=200)
    assert torch.allclose(found.point, target, atol=1e-6)
    assert found.iterations[0] < found.iterations[1]


def test_logistic_regression__chooses_c_without_the_test_set(digits) -> None:
    train, test = digits
    ours = logistic_regression(train, test, num_classes=10)
    scrambled = logistic_regression(train, Samples(test.features, (test.labels + 1) % 10), num_classes=10)
    assert ours.c == scrambled.c
    assert ours.val_scores == scrambled.val_scores
    assert ours.val_scores[ours.c] == max(ours.val_scores.values())
    assert ours.c == min(c for c, score in ours.val_scores.items() if score == max(ours.val_scores.values()))
    assert ours.score.value > 0.94
    assert ours.top5.value >= ours.score.value
    assert ours.score.num_samples == 500


def test_logistic_regression__the_final_fit_is_on_all_of_train(digits) -> None:
    train, test = digits
    ours = logistic_regression(train, test, num_classes=10, cs=(0.01, 0.1))
    whole = fit_logistic(train.features, train.labels, num_classes=10, cs=[ours.c])
    assert ours.objective == pytest.approx(whole.objective[0])
    assert (ours.predictions == whole.scores(test.features, 0).argmax(axis=1)).all()
    assert (ours.weight.shape, ours.bias.shape) == ((10, 64), (10,))


def test_logistic_regression__one_c_needs_no_choice(digits) -> None:
    train, test = digits
    ours = logistic_regression(train, test, num_classes=10, cs=[0.1])
    assert (ours.c, ours.val_scores, ours.notes) == (0.1, {}, ())


def test_logistic_regression__order_of_train_does_not_matter(digits) -> None:
    train, test = digits
    shuffled = train.take(np.random.default_rng(3).permutation(len(train)))
    ours, theirs = (logistic_regression(samples, test, num_classes=10, cs=[0.1]) for samples in (train, shuffled))
    assert ours.score == theirs.score


def test_logistic_regression__names_of_classes_do_not_matter(digits) -> None:
    other = np.random.default_rng(2).permutation(10)
    renamed = [Samples(s.features, other[s.labels]) for s in digits]
    ours, theirs = (logistic_regression(*pair, num_classes=10, cs=[0.1]) for pair in (digits, renamed))
    assert ours.score == theirs.score
    assert (other[ours.predictions] == theirs.predictions).all()


def test_logistic_regression__constant_features_score_at_chance(digits) -> None:
    train, test = (Samples(np.full_like(s.features, 3), s.labels) for s in digits)
    ours = logistic_regression(train, test, num_classes=10)
    assert ours.score.value < 0.2
    assert ours.converged
    assert "all train features are equal: this level carries no information" in ours.notes


def test_logistic_regression__a_class_absent_from_train_is_noted_and_never_predicted(digits) -> None:
    train, test = digits
    some = train.take(np.flatnonzero(train.labels != 4))
    ours = logistic_regression(some, test, num_classes=10, cs=[0.1])
    assert ours.notes == ("1 classes of test are absent from train and can never be predicted: class 4",)
    assert 4 not in ours.predictions


def test_logistic_regression__says_when_the_grid_ends_or_time_runs_out(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits
    monkeypatch.setattr("hjepa_eval.probes.linear.logistic_path.CERTAIN", -1.0)  # No gap is that small.
    ours = logistic_regression(train, test, num_classes=10, cs=(1e-5, 1e-4), max_iter=2)
    assert "the chosen C = 0.0001 is the largest of the grid; a wider grid may do better" in ours.notes
    assert any(re.fullmatch(r"logistic regression stopped after .* not to 0.01 %", note) for note in ours.notes)
    assert not ours.converged
    assert not ours.converged


def test_logistic_regression__refuses_what_has_no_answer(digits) -> None:
    train, test = digits
    single = train.take(np.array([np.flatnonzero(train.labels == c)[0] for c in range(10)]))
    with pytest.raises(ProbeError, match="give one C"):
        logistic_regression(single, test, num_classes=10)
    with pytest.raises(ProbeError, match="every C must be a number above 0"):
        logistic_regression(train, test, num_classes=10, cs=[0.0])
    with pytest.raises(ProbeError, match="every C must be"):
        logistic_regression(train, test, num_classes=10, cs=[])
    with pytest.raises(ProbeError, match="between 0 and 1"):
        logistic_regression(train, test, num_classes=10, val_fraction=1.5)


def test_fit_logistic__ends_where_float32_allows_no_lower_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separable classes and a weak penalty: without that end all 1,000 iterations are spent on rounding noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 20
    rows = (generator.normal(size=(20, 60))[labels] + 0.5 * generator.normal(size=(600, 60))).astype(np.float32)
    samples = Samples(rows, labels)
    exact = fit_logistic(rows, labels, num_classes=20, cs=[1e5])
    reference = LogisticRegression(C=1e5, max_iter=5000, tol=1e-10).fit(rows.astype(np.float64), labels)
    assert exact.objective[0] == pytest.approx(objective(reference.coef_, reference.intercept_, samples, 1e5), rel=1e-4)
    monkeypatch.setattr("hjepa_eval.probes.linear.softmax_loss._SMALL", 0)
    rough = fit_logistic(rows, labels, num_classes=20, cs=[1e5])
    assert rough.iterations[0] < 300
    assert not rough.converged[0], "an end is no proof"
    assert fit_logistic(rows, labels, num_classes=20, cs=[1e5], certain=True).converged[0]
    # The mean loss is 1e-6 there, of numbers near 1 that float32 knows to 6e-8.
    assert objective(rough.weight[0], rough.bias[0], samples, 1e5) == pytest.approx(exact.objective[0], rel=0.05)


def test_logistic_regression__the_default_grid_grows_while_its_largest_c_is_the_best(digits) -> None:
    train, test = digits
    tiny = [Samples(samples.features * np.float32(1e-4), samples.labels) for samples in (train, test)]
    found = logistic_regression(*tiny, num_classes=10)
    assert found.c > 1e4
    assert max(found.val_scores) > found.c or max(found.val_scores) == 1e8
    fixed = logistic_regression(*tiny, num_classes=10, cs=[1.0, 1e4])
    assert set(fixed.val_scores) == {1.0, 1e4}, "a grid that was given stays as it is"


def test_logistic_regression__number_of_threads_does_not_matter(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hjepa_eval.probes.linear.softmax_loss._SMALL", 0)  # Small problems take one thread anyway.
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(logistic_regression(*digits, num_classes=10, cs=[0.01, 0.1]))
    finally:
        torch.set_num_threads(before)
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-6)
    assert (found[0].predictions == found[1].predictions).mean() >= 0.999

"""CLIP's search visits what it should, and finds the peak of the whole grid when there is one peak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.logistic_path import best_c, fit_logistic, search_c

GRID = 10.0 ** np.linspace(-6, 6, 97)


def peaked(at: float) -> tuple[list[list[float]], dict[float, float]]:
    """Search scores that fall with the distance from C = 10^at; return what was asked for, call by call."""
    calls: list[list[float]] = []

    def evaluate(cs: Sequence[float]) -> list[float]:
        calls.append(list(cs))
        return [1 - abs(float(np.log10(c)) - at) / 20 for c in cs]

    return calls, search_c(evaluate)


@pytest.mark.parametrize("place", range(97))
def test_search_c__finds_a_single_peak_anywhere_on_the_grid(place: int) -> None:
    calls, scores = peaked(float(np.log10(GRID[place])))
    assert best_c(scores) == pytest.approx(GRID[place])
    assert sum(len(cs) for cs in calls) == len(scores) <= 15
    assert all(np.isclose(GRID, c, rtol=1e-9).any() for c in scores)


def test_search_c__starts_at_seven_values_and_halves_its_step() -> None:
    calls, scores = peaked(0.0)
    assert calls[0] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    assert calls[1] == pytest.approx([0.1, 10])
    assert calls[2] == pytest.approx([10**-0.5, 10**0.5])
    assert calls[3] == pytest.approx([10**-0.25, 10**0.25])
    assert calls[4] == pytest.approx([10**-0.125, 10**0.125])
    assert len(calls) == 5
    assert list(scores) == sorted(scores)


def test_search_c__equal_scores_go_to_the_smallest_c_and_stay_in_range() -> None:
    scores = search_c(lambda cs: [0.5 for _ in cs])
    assert best_c(scores) == min(scores) == pytest.approx(1e-6)
    assert best_c({1.0: 0.4, 0.1: 0.6, 10.0: 0.6}) == 0.1


def test_logistic_regression__bisection_is_at_least_as_good_as_its_seven_starts(digits) -> None:
    train, test = digits
    ours = logistic_regression(train, test, num_classes=10, search="bisect")
    assert len(ours.val_scores) <= 15
    assert ours.c == best_c(ours.val_scores)
    starts = [score for c, score in ours.val_scores.items() if float(np.log10(c)) % 2 == 0]
    assert len(starts) == 7
    assert ours.val_score == ours.val_scores[ours.c] == max(ours.val_scores.values()) >= max(starts)
    whole = fit_logistic(train.features, train.labels, num_classes=10, cs=[ours.c])
    assert (ours.predictions == whole.scores(test.features, 0).argmax(axis=1)).all()


@pytest.mark.parametrize("search", ["grid", "bisect"])
def test_logistic_regression__held_out_logits_are_those_of_the_chosen_c(digits, search) -> None:
    train, test = digits
    cs = (0.003, 0.1, 3.0) if search == "grid" else None
    ours = logistic_regression(train, test, num_classes=10, cs=cs, search=search)
    assert ours.val_logits.shape == (len(ours.val_labels), 10)
    assert ours.val_logits.dtype == np.float32
    assert (ours.val_logits.argmax(axis=1) == ours.val_labels).mean() == pytest.approx(ours.val_score)
    assert 0.08 < len(ours.val_labels) / len(train) < 0.12


@pytest.mark.parametrize("search", ["grid", "bisect"])
def test_logistic_regression__of_equal_accuracies_the_smallest_c_gives_the_held_out_logits(digits, search) -> None:
    train, test = (s.take(np.flatnonzero(s.labels < 2)) for s in digits)
    cs = (0.01, 0.1, 1.0) if search == "grid" else None
    ours = logistic_regression(train, test, num_classes=2, cs=cs, search=search)
    equal = [c for c, score in ours.val_scores.items() if score == ours.val_score]
    assert len(equal) > 1
    assert ours.c == min(equal)
    kept, held = stratified_holdout(train.labels)
    path = fit_logistic(train.features[kept], train.labels[kept], num_classes=2, cs=equal)
    assert np.allclose(ours.val_logits, path.scores(train.features[held], 0), rtol=0.01, atol=0.01)
    assert not np.allclose(ours.val_logits, path.scores(train.features[held], 1), rtol=0.01, atol=0.01)


def test_logistic_regression__one_c_holds_nothing_out(digits) -> None:
    ours = logistic_regression(*digits, num_classes=10, cs=[0.1])
    assert (ours.val_score, ours.val_logits, ours.val_labels) == (None, None, None)


def test_logistic_regression__a_bisection_refuses_a_grid(digits) -> None:
    with pytest.raises(ProbeError, match="leave out `cs`"):
        logistic_regression(*digits, num_classes=10, cs=[0.1, 1.0], search="bisect")

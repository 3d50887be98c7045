"""kNN votes: hand-computed, against plain numpy, and what must not change a score."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hjepa_eval.probes.knn as knn_module
from hjepa_eval.errors import ProbeError, UnknownNameError
from hjepa_eval.probes.knn import KnnResult, knn
from hjepa_eval.probes.samples import Samples
from hjepa_eval.probes.voting import class_scores, vote_weights


def on_circle(cosines: list[float]) -> np.ndarray:
    return np.array([[c, math.sqrt(1 - c * c)] for c in cosines], np.float32)


def plain_knn(train: Samples, test: Samples, k: int, temperature: float, num_classes: int) -> np.ndarray:
    """Loop over queries, in float64: sort by (nearer, lower index), add weights, break ties by the nearest."""
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (train, test)]
    cosine = unit[1].astype(np.float64) @ unit[0].astype(np.float64).T
    predictions = []
    for row in cosine:
        order = np.argsort(-np.round(row, 9), kind="stable")[:k]
        votes = np.zeros(num_classes)
        for j in order:
            votes[train.labels[j]] += math.exp((row[j] - 1) / temperature)
        best = [c for c in range(num_classes) if votes[c] >= votes.max() * (1 - 1e-12)]
        predictions.append(next(int(train.labels[j]) for j in order if train.labels[j] in best))
    return np.array(predictions)


def test_vote__three_points_give_the_score_computed_by_hand() -> None:
    """Cosines 0.8 (class 0) and 0.96 (class 1), T = 0.1: class 0 gets 1 / (1 + e^1.6)."""
    weights = vote_weights(np.array([[0.96, 0.8]], np.float32), temperature=0.1)
    scores = class_scores(weights, np.array([[1, 0]]), num_classes=2)
    assert scores[0] == pytest.approx([0.16798161, 1 - 0.16798161], abs=1e-7)


def test_knn__three_points_are_classified_as_computed_by_hand() -> None:
    train = Samples(on_circle([0.8, 0.96]), np.array([0, 1]))
    result = knn(train, Samples(on_circle([1.0]), np.array([1])), num_classes=2, ks=(1, 2), temperature=0.1)
    assert result.predictions[2].tolist() == [1]
    assert result.scores[2].value == 1.0


def test_knn__ties_go_to_the_nearer_index() -> None:
    """Two classes with one vote of equal weight each: the lower index of the bank leads, whatever its class."""
    for labels in ([1, 0], [0, 1]):
        train = Samples(np.ones((2, 3), np.float32), np.array(labels))
        result = knn(train, Samples(np.ones((1, 3), np.float32), np.array([0])), num_classes=2, ks=(2,))
        assert result.predictions[2].tolist() == [labels[0]]


def test_knn__majority_ties_go_to_the_class_of_the_nearest_neighbour() -> None:
    train = Samples(on_circle([0.9, 0.8, 0.7, 0.6]), np.array([2, 0, 0, 2]))
    result = knn(train, Samples(on_circle([1.0]), np.array([2])), num_classes=3, ks=(1, 3, 4), weighting="majority")
    assert {k: p.tolist() for k, p in result.predictions.items()} == {1: [2], 3: [0], 4: [2]}


@pytest.mark.parametrize("temperature", [0.07, 0.005])
def test_knn__equals_plain_numpy_on_real_digits(digits: tuple[Samples, Samples], temperature: float) -> None:
    train, test = digits
    result = knn(train, test, num_classes=10, ks=(1, 20, 200), temperature=temperature)
    for k in (1, 20, 200):
        assert (result.predictions[k] == plain_knn(train, test, k, temperature, 10)).all()


def test_knn__every_k_of_one_search_equals_a_search_of_its_own(digits: tuple[Samples, Samples]) -> None:
    together = knn(*digits, num_classes=10)
    assert list(together.scores) == [10, 20, 100, 200]
    for k in together.scores:
        alone = knn(*digits, num_classes=10, ks=(k,))
        assert (alone.predictions[k] == together.predictions[k]).all()
        assert alone.top5[k] == together.top5[k]


def test_knn__both_backends_agree(digits: tuple[Samples, Samples]) -> None:
    ours = [knn(*digits, num_classes=10, backend=backend) for backend in ("faiss", "torch")]
    assert [r.backend for r in ours] == ["faiss", "torch"]
    assert all((ours[0].predictions[k] == ours[1].predictions[k]).all() for k in ours[0].scores)


def test_knn__order_of_train_does_not_matter(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    shuffled = train.take(np.random.default_rng(1).permutation(len(train)))
    assert same_scores(knn(train, test, num_classes=10), knn(shuffled, test, num_classes=10))


@pytest.mark.parametrize("weighting", ["exponential", "majority"])
def test_knn__names_of_classes_do_not_matter(digits: tuple[Samples, Samples], weighting: str) -> None:
    other = np.random.default_rng(2).permutation(10)
    train, test = digits
    renamed = [Samples(s.features, other[s.labels]) for s in digits]
    ours = knn(train, test, num_classes=10, weighting=weighting, ks=(2, 4, 20))
    theirs = knn(*renamed, num_classes=10, weighting=weighting, ks=(2, 4, 20))
    assert same_scores(ours, theirs)
    assert all((other[ours.predictions[k]] == theirs.predictions[k]).all() for k in ours.scores)


def test_knn__top5_counts_only_classes_with_votes() -> None:
    """With k = 2 neighbours of class 0, no other class is among the best five, though four places are free."""
    train = Samples(on_circle([0.9, 0.8, 0.1]), np.array([0, 0, 1]))
    result = knn(train, Samples(on_circle([1.0]), np.array([1])), num_classes=6, ks=(2, 3))
    assert (result.top5[2].value, result.top5[3].value) == (0.0, 1.0)


def test_knn__top5_ties_are_ranked_by_the_nearest_neighbour() -> None:
    train = Samples(on_circle([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([5, 4, 3, 2, 1, 0]))
    test = Samples(np.repeat(on_circle([1.0]), 2, axis=0), np.array([1, 0]))
    result = knn(train, test, num_classes=6, ks=(6,), weighting="majority")
    assert result.top5[6].value == 0.5  # class 1 is the fifth, class 0 the sixth
    assert result.predictions[6].tolist() == [5, 5]


@pytest.mark.rows("E4")
def test_knn__leave_one_out_equals_a_loop_without_the_sample(digits: tuple[Samples, Samples]) -> None:
    train = digits[0].take(np.arange(120))
    result = knn(train, num_classes=10, ks=(5,), leave_one_out=True)
    for i in range(len(train)):
        rest = train.take(np.delete(np.arange(120), i))
        assert result.predictions[5][i] == plain_knn(rest, train.take(np.array([i])), 5, 0.07, 10)[0]


def test_knn__k_beyond_the_bank_is_clipped_and_said(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    result = knn(train.take(np.arange(50)), test, num_classes=10)
    assert list(result.scores) == [10, 20, 50]
    assert result.ks_clipped == {100: 50, 200: 50}
    assert result.notes == ("k = 100, 200 clipped to the 50 neighbours that the train set has",)


def test_knn__constant_features_score_at_chance_and_are_noted(digits: tuple[Samples, Samples]) -> None:
    train, test = (Samples(np.ones_like(s.features), s.labels) for s in digits)
    result = knn(train, test, num_classes=10)
    assert result.scores[20].value < 0.2
    assert "all train features are equal: this level carries no information" in result.notes


def test_knn__zero_vectors_are_noted(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    holed = Samples(train.features * (np.arange(len(train)) >= 3)[:, None].astype(np.float32), train.labels)
    result = knn(holed, test, num_classes=10)
    assert result.notes == ("3 of 1297 train features are zero vectors; their cosine counts as 0",)


def test_knn__a_tiny_temperature_is_the_nearest_neighbour(digits: tuple[Samples, Samples]) -> None:
    result = knn(*digits, num_classes=10, ks=(1, 200), temperature=1e-6)
    assert (result.predictions[1] == result.predictions[200]).mean() > 0.99


def test_knn__inverse_distance_weights_are_one_over_d() -> None:
    weights = vote_weights(np.array([[-0.0, -4.0]], np.float32), weighting="inverse")
    assert weights[0] == pytest.approx([1e5, 1 / (2 + 1e-5)])


def test_knn__results_are_whole(digits: tuple[Samples, Samples]) -> None:
    result = knn(*digits, num_classes=10, ks=(20, 10, 20))
    assert list(result.scores) == list(result.top5) == list(result.predictions) == [10, 20]
    assert result.best_k in (10, 20)
    assert result.scores[10].num_samples == 500
    assert result.scores[10].low < result.scores[10].value < result.scores[10].high
    assert result.seconds > 0
    assert result.notes == ()


def test_knn__refuses_what_has_no_answer(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    with pytest.raises(ProbeError, match="k must be at least 1"):
        knn(train, test, num_classes=10, ks=(0, 5))
    with pytest.raises(ProbeError, match="temperature must be above 0"):
        knn(train, test, num_classes=10, temperature=0)
    with pytest.raises(ProbeError, match="give no test set"):
        knn(train, test, num_classes=10, leave_one_out=True)
    with pytest.raises(ProbeError, match="needs a test set"):
        knn(train, num_classes=10)
    with pytest.raises(UnknownNameError, match="known: exponential, inverse, majority"):
        knn(train, test, num_classes=10, weighting="uniform")


def same_scores(one: KnnResult, other: KnnResult) -> bool:
    return one.scores == other.scores and one.top5 == other.top5


def test_knn__leave_one_out_of_some_samples_is_a_part_of_that_of_all(digits) -> None:
    train, _ = digits
    every = knn(train, num_classes=10, ks=[5], leave_one_out=True)
    chosen = np.array([900, 3, 77, 1200])
    some = knn(train, num_classes=10, ks=[5], leave_one_out=chosen)
    assert some.predictions[5].tolist() == every.predictions[5][chosen].tolist()
    assert some.scores[5].num_samples == 4
    twins = Samples(np.ones((4, 2), np.float32), np.array([0, 0, 1, 1]))
    found = knn(twins, num_classes=2, ks=[1], leave_one_out=np.array([0, 2]))
    assert found.predictions[1].tolist() == [0, 0], "the nearest that is not oneself, of equal ones the lower index"


def test_knn__further_temperatures_come_from_the_same_search(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = digits
    alone = {t: knn(train, test, num_classes=10, ks=[5, 50], temperature=t).scores for t in (0.02, 0.5)}
    searches = []
    whole = knn_module.nearest_in_pieces
    monkeypatch.setattr(knn_module, "nearest_in_pieces", lambda *a, **k: searches.append(1) or whole(*a, **k))
    found = knn(train, test, num_classes=10, ks=[5, 50], temperature=0.02, more_temperatures=[0.5])
    assert (found.scores, found.more[0.5], len(searches)) == (alone[0.02], alone[0.5], 1)
    with pytest.raises(ProbeError, match="above 0"):
        knn(train, test, num_classes=10, more_temperatures=[0.0])

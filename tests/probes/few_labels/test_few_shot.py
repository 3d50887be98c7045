"""Few-shot episodes: against plain loops, scikit-learn, and counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import hjepa_eval.probes.few_labels.classifiers as classifiers_module
import hjepa_eval.probes.few_labels.few_shot as few_shot_module
from hjepa_eval.errors import ProbeError, UnknownNameError
from hjepa_eval.probes.few_labels.classifiers import logistic
from hjepa_eval.probes.few_labels.episodes import draw_episodes
from hjepa_eval.probes.few_labels.few_shot import classify_episodes, few_shot
from hjepa_eval.probes.samples import Samples


@pytest.fixture(scope="module")
def pool(digits: tuple[Samples, Samples]) -> Samples:
    return digits[1]


def transformed(features: np.ndarray, classifier: str, base_mean: np.ndarray | None) -> np.ndarray:
    rows = features.astype(np.float64)
    if classifier == "simpleshot-un":
        return rows
    rows = rows if base_mean is None else rows - base_mean
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("classifier", ["prototype", "simpleshot-un", "simpleshot-l2n", "simpleshot-cl2n"])
@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot__prototypes_equal_a_plain_loop(digits, pool: Samples, classifier: str, shots: int) -> None:
    base_mean = digits[0].features.mean(axis=0) if classifier == "simpleshot-cl2n" else None
    episodes = draw_episodes(pool.labels, num_classes=10, shots=shots, episodes=60)
    ours = classify_episodes(pool.features, episodes, classifier=classifier, base_mean=base_mean)
    rows = transformed(pool.features, classifier, base_mean)
    for number in range(60):
        centroids = [rows[episodes.support[number, way]].mean(axis=0) for way in range(5)]
        right = 0
        for way in range(5):
            for query in episodes.queries[number, way]:
                distances = [np.linalg.norm(rows[query] - centroid) for centroid in centroids]
                right += int(np.argmin(distances) == way)
        assert ours.episode_accuracies[number] == pytest.approx(right / 75, abs=1e-7)


def test_few_shot__ridge_equals_scikit_learn(pool: Samples) -> None:
    episodes = draw_episodes(pool.labels, num_classes=10, shots=5, episodes=25)
    ours = classify_episodes(pool.features, episodes, classifier="ridge")
    rows = transformed(pool.features, "ridge", None)
    truth = np.repeat(np.arange(5), 15)
    for number in range(25):
        fitted = Ridge(alpha=1.0).fit(rows[episodes.support[number].ravel()], np.repeat(np.eye(5), 5, axis=0))
        predicted = fitted.predict(rows[episodes.queries[number].ravel()]).argmax(axis=1)
        assert ours.episode_accuracies[number] == pytest.approx((predicted == truth).mean(), abs=1e-7)


def test_draw_episodes__samples_are_of_their_class_and_never_twice(pool: Samples) -> None:
    episodes = draw_episodes(pool.labels, num_classes=10, ways=4, shots=3, queries=7, episodes=200)
    every = np.concatenate([episodes.support, episodes.queries], axis=2)
    assert every.shape == (200, 4, 10)
    assert (pool.labels[every] == episodes.classes[:, :, None]).all()
    assert all(len(set(episode.ravel())) == 40 for episode in every)
    assert all(len(set(classes)) == 4 for classes in episodes.classes)


def test_draw_episodes__depends_on_labels_and_seed_only(pool: Samples) -> None:
    first, again, other = (draw_episodes(pool.labels, num_classes=10, episodes=50, seed=seed) for seed in (0, 0, 1))
    assert (first.support == again.support).all()
    assert (first.queries == again.queries).all()
    assert (first.support != other.support).any()


def test_draw_episodes__every_sample_and_class_is_equally_likely() -> None:
    """20,000 draws of 3 from 6: each place sees each sample 10,000 / 3 times, give or take 5 standard deviations."""
    labels = np.repeat([0, 1, 2], 6)
    episodes = draw_episodes(labels, num_classes=3, ways=2, shots=1, queries=2, episodes=15_000)
    assert np.bincount(episodes.classes[:, 0]) == pytest.approx([5000] * 3, abs=5 * np.sqrt(15000 * 2 / 9))
    every = np.concatenate([episodes.support, episodes.queries], axis=2).reshape(-1, 3)
    for place in range(3):
        assert np.bincount(every[:, place], minlength=18) == pytest.approx(
            [30000 / 18] * 18, abs=5 * np.sqrt(30000 / 18)
        )


def test_draw_episodes__can_use_every_sample_of_a_class() -> None:
    episodes = draw_episodes(np.repeat([0, 1], 4), num_classes=2, ways=2, shots=1, queries=3, episodes=20)
    every = np.concatenate([episodes.support, episodes.queries], axis=2).reshape(20, -1)
    assert (np.sort(every, axis=1) == np.arange(8)).all()


def test_few_shot__the_interval_is_that_of_the_images(pool: Samples) -> None:
    result = few_shot(pool, num_classes=10, episodes=400)
    each, values = result.episode_accuracies, result.image_values
    assert (each.shape, each.dtype, values.shape) == ((400,), np.float32, (500,))
    assert result.score.value == pytest.approx(each.mean()) == pytest.approx(values.mean())
    assert result.score.high - result.score.low == pytest.approx(2 * 1.96 * values.std(ddof=1) / np.sqrt(500), rel=0.02)
    assert (
        result.score.high - result.score.low > 2 * 2 * 1.96 * each.std() / 20
    )  # twice what episodes alone would claim
    assert result.score.method == "images (jackknife) 95%"
    assert (result.score.num_samples, result.ways, result.shots, result.queries) == (500, 5, 1, 15)


@pytest.mark.parametrize("classifier", ["prototype", "ridge", "logreg"])
def test_few_shot__chunks_do_not_matter(pool: Samples, classifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = few_shot(pool, num_classes=10, shots=5, episodes=300, classifier=classifier)
    monkeypatch.setattr(few_shot_module, "_CHUNK_EPISODES", 70)
    monkeypatch.setattr(classifiers_module, "_PIECE_ELEMENTS", 40_000)
    cut = few_shot(pool, num_classes=10, shots=5, episodes=300, classifier=classifier)
    assert (cut.episode_accuracies == whole.episode_accuracies).all()


def test_few_shot__all_levels_see_the_same_episodes(pool: Samples) -> None:
    """The same features under another width give the same accuracy in every single episode."""
    wider = Samples(np.concatenate([pool.features, np.zeros((len(pool), 64), np.float32)], axis=1), pool.labels)
    ours, theirs = (few_shot(level, num_classes=10, episodes=200) for level in (pool, wider))
    assert (ours.episode_accuracies == theirs.episode_accuracies).all()


def test_few_shot__constant_features_score_at_chance(pool: Samples) -> None:
    result = few_shot(Samples(np.ones_like(pool.features), pool.labels), num_classes=10, episodes=50)
    assert result.score.value == pytest.approx(0.2)
    assert result.notes == ("all few-shot features are equal: this level carries no information",)


def test_few_shot__classes_without_samples_are_left_out_and_noted(pool: Samples) -> None:
    some = pool.take(np.flatnonzero(pool.labels < 6))
    result = few_shot(some, num_classes=10, episodes=50)
    assert result.notes == ("4 of 10 classes have no sample and are never drawn",)


def test_few_shot__refuses_what_the_samples_do_not_allow(pool: Samples) -> None:
    names = [f"digit {i}" for i in range(10)]
    rare = pool.take(np.concatenate([np.flatnonzero(pool.labels != 3), np.flatnonzero(pool.labels == 3)[:12]]))
    says = r"5-way 5-shot .* take 20 images of every class, and class 3 \('digit 3'\) has 12; use --queries 7 or fewer$"
    with pytest.raises(ProbeError, match=says):
        few_shot(rare, num_classes=10, shots=5, class_names=names)
    with pytest.raises(ProbeError, match="has 12; use --queries 9 or fewer, or --shots 2 or fewer"):
        few_shot(rare, num_classes=10, shots=3, queries=10)
    with pytest.raises(ProbeError, match="has 12; use fewer of both"):
        few_shot(rare, num_classes=10, shots=12, queries=12)
    with pytest.raises(ProbeError, match="use --ways 10"):
        few_shot(pool, num_classes=10, ways=11)
    with pytest.raises(ProbeError, match="shots = 0"):
        few_shot(pool, num_classes=10, shots=0)
    with pytest.raises(ProbeError, match="ways = 1"):
        few_shot(pool, num_classes=10, ways=1)
    with pytest.raises(ProbeError, match="needs base_mean"):
        few_shot(pool, num_classes=10, classifier="simpleshot-cl2n")
    with pytest.raises(ProbeError, match="no part in prototype"):
        few_shot(pool, num_classes=10, base_mean=np.zeros(64, np.float32))
    with pytest.raises(ProbeError, match=r"expected \[64\]"):
        few_shot(pool, num_classes=10, classifier="simpleshot-cl2n", base_mean=np.zeros(3, np.float32))
    with pytest.raises(UnknownNameError, match="did you mean 'prototype'"):
        few_shot(pool, num_classes=10, classifier="prototypes")


def logistic_reference(rows: np.ndarray, episodes, number: int, shots: int, c: float = 1.0) -> np.ndarray:
    ways = episodes.classes.shape[1]
    model = LogisticRegression(C=c, max_iter=5000, tol=1e-8)
    fitted = model.fit(rows[episodes.support[number].ravel()], np.repeat(np.arange(ways), shots))
    return fitted.decision_function(rows[episodes.queries[number].ravel()])


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (10, 12)])
def test_few_shot__logistic_equals_scikit_learn(pool: Samples, ways: int, shots: int) -> None:
    episodes = draw_episodes(pool.labels, num_classes=10, ways=ways, shots=shots, episodes=12)
    ours = classify_episodes(pool.features, episodes, classifier="logreg")
    rows = transformed(pool.features, "logreg", None)
    truth = np.repeat(np.arange(ways), 15)
    for number in range(12):
        theirs = logistic_reference(rows, episodes, number, shots)
        assert ours.episode_accuracies[number] == pytest.approx((theirs.argmax(axis=1) == truth).mean(), abs=1e-7)


def test_logistic__finds_the_minimum_where_its_quick_steps_fail(pool: Samples) -> None:
    """C = 100 separates the support: the quick steps do not converge, the bounded ones do."""
    rows = transformed(pool.features, "logreg", None)
    episodes = draw_episodes(pool.labels, num_classes=10, shots=3, episodes=6)
    ours = logistic(
        torch.from_numpy(rows).float(),
        torch.from_numpy(episodes.support),
        torch.from_numpy(episodes.queries).flatten(1),
        c=100.0,
    )
    for number in range(6):
        theirs = logistic_reference(rows, episodes, number, 3, 100.0)
        centred = ours[number] - ours[number].mean(dim=1, keepdim=True)
        assert centred.numpy() == pytest.approx(theirs, abs=0.02 * np.abs(theirs).max())


@pytest.mark.parametrize("classifier", ["ridge", "logreg"])
def test_few_shot__features_that_hardly_differ_lose_nothing(pool: Samples, classifier: str) -> None:
    """Untrained encoders give nearly the same vector for every image; only what differs counts."""
    rows = transformed(pool.features, classifier, None)
    shift = np.zeros(rows.shape[1])
    shift[0] = 30.0
    near = Samples((rows + shift).astype(np.float32), pool.labels)
    episodes = draw_episodes(pool.labels, num_classes=10, shots=5, episodes=20)
    ours = classify_episodes(near.features, episodes, classifier=classifier)
    unit = near.features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    truth = np.repeat(np.arange(5), 15)
    for number in range(20):
        if classifier == "logreg":
            scores = logistic_reference(unit, episodes, number, 5)
        else:
            fitted = Ridge(alpha=1.0).fit(unit[episodes.support[number].ravel()], np.repeat(np.eye(5), 5, axis=0))
            scores = fitted.predict(unit[episodes.queries[number].ravel()])
        assert ours.episode_accuracies[number] == pytest.approx((scores.argmax(axis=1) == truth).mean(), abs=1e-7)


@pytest.mark.parametrize("episodes", [2, 5, 40])
def test_few_shot__images_that_no_episode_drew_leave_the_mean_alone(pool: Samples, episodes: int) -> None:
    result = few_shot(pool, num_classes=10, shots=1, queries=2, episodes=episodes, seed=0)
    assert result.image_values.mean() == pytest.approx(result.score.value, abs=1e-12)

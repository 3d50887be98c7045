"""Few-shot intervals and tests: do they cover what a reader thinks, when other images are drawn?"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hjepa_eval.metrics.paired import compare_values
from hjepa_eval.probes.few_labels.episodes import draw_episodes
from hjepa_eval.probes.few_labels.few_shot import FewShotResult, classify_episodes

REDRAWS = 400


def redrawn(
    classes: int, images: int, shots: int, separation: float
) -> tuple[list[FewShotResult], list[FewShotResult]]:
    """Return the results of two levels of unlike noise on each of 400 draws of the images of the same classes."""
    generator = np.random.default_rng(0)
    means = separation * generator.normal(size=(classes, 6))
    moved = means + 0.2 * generator.normal(size=means.shape)
    labels = np.repeat(np.arange(classes), images)
    first, second = [], []
    for seed in range(REDRAWS):
        common = generator.normal(size=(len(labels), 6))
        own = 0.8 * common + 0.6 * generator.normal(size=common.shape)
        drawn = draw_episodes(labels, num_classes=classes, shots=shots, episodes=200, seed=seed)
        for results, rows in ((first, means[labels] + common), (second, moved[labels] + own)):
            results.append(classify_episodes(rows.astype(np.float32), drawn, classifier="simpleshot-un"))
    return first, second


def covered(low: NDArray, high: NDArray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize(("classes", "images", "shots"), [(5, 40, 1), (8, 50, 5)])
def test_few_shot__intervals_cover_other_draws_of_the_images(classes: int, images: int, shots: int) -> None:
    """400 draws tell 95 % from 93 to 97 %; the intervals of the episodes alone, which papers print, cover half."""
    first, second = redrawn(classes, images, shots, 0.7)
    values = np.array([result.score.value for result in first])
    low, high = (np.array([getattr(result.score, end) for result in first]) for end in ("low", "high"))
    assert covered(low, high, values.mean()) == pytest.approx(0.95, abs=0.025)
    half = np.array([1.96 * result.episode_accuracies.std() / np.sqrt(200) for result in first])
    assert covered(values - half, values + half, values.mean()) < 0.7

    pairs = [compare_values(a.image_values, b.image_values) for a, b in zip(first, second, strict=True)]
    differences = np.array([pair.difference for pair in pairs])
    assert differences == pytest.approx(values - [result.score.value for result in second])
    low, high = (np.array([getattr(pair, end) for pair in pairs]) for end in ("low", "high"))
    assert covered(low, high, differences.mean()) == pytest.approx(0.965, abs=0.03)


def test_few_shot__episodes_that_use_every_image_are_no_more_certain() -> None:
    """20 images of each class are 5 shots and 15 queries: ten thousand episodes of the same hundred images."""
    first, _ = redrawn(5, 20, 5, 0.7)
    values = np.array([result.score.value for result in first])
    low, high = (np.array([getattr(result.score, end) for result in first]) for end in ("low", "high"))
    assert 0.94 <= covered(low, high, values.mean()) <= 0.99


def test_image_values__two_levels_that_are_equal_differ_by_nothing() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 30)
    drawn = draw_episodes(labels, num_classes=5, episodes=100)
    rows = generator.normal(size=(150, 4)).astype(np.float32)
    one, other = (classify_episodes(rows * scale, drawn, classifier="simpleshot-un") for scale in (1.0, 4.0))
    assert compare_values(one.image_values, other.image_values).p_value == 1.0


def test_few_shot__a_level_that_is_always_right_keeps_an_interval() -> None:
    labels = np.repeat(np.arange(5), 20)
    drawn = draw_episodes(labels, num_classes=5, episodes=50)
    score = classify_episodes(np.eye(5, dtype=np.float32)[labels], drawn).score
    assert (score.value, score.high) == (1.0, 1.0)
    assert score.low == pytest.approx(1 - 0.037, abs=1e-3)  # Wilson's, of 100 images

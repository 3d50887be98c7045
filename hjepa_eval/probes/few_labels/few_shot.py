"""Few-shot classification: all episodes in batched products, the same episodes for every level."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, unknown
from hjepa_eval.metrics.intervals import Interval, share_interval
from hjepa_eval.probes.few_labels.classifiers import SOLVERS, Classifier, nearest_centroid
from hjepa_eval.probes.few_labels.episodes import Episodes, draw_episodes
from hjepa_eval.probes.few_labels.image_values import image_values
from hjepa_eval.probes.few_labels.pool import make_pool, settle
from hjepa_eval.probes.samples import Samples, check_features, check_one
from hjepa_eval.probes.side_by_side import side_by_side

# So many fits share their steps; more only take memory.
_CHUNK_EPISODES = 1000


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over few-shot episodes.

    Attributes:
        score: mean accuracy over episodes; its interval covers the draw of the images, as query and as support, and
            that of the episodes, and `num_samples` counts images.
        image_values: float64 [N], what each image adds to it, so that levels and models can be compared in pairs; see
            `image_values.py`.
        episode_accuracies: float32 [E], in the order of the episodes; their own interval would cover no other images.
        classifier: the name asked for.
        ways: W.
        shots: S.
        queries: Q, per class.
        seconds: wall-clock time.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
    image_values: NDArray[np.float64]
    episode_accuracies: NDArray[np.float32]
    classifier: str
    ways: int
    shots: int
    queries: int
    seconds: float
    notes: tuple[str, ...]


def few_shot(
    test: Samples,
    *,
    num_classes: int,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 10_000,
    seed: int = 0,
    classifier: Classifier = "prototype",
    base_mean: NDArray[np.float32] | None = None,
    class_names: Sequence[str] | None = None,
) -> FewShotResult:
    """Draw episodes from `test`, fit `classifier` on the support of each and report the mean accuracy on its queries.

    Args:
        test: the pool that episodes are drawn from, features [N, D].
        num_classes: C; labels lie in [0, C).
        ways: classes in an episode.
        shots: labelled samples per class.
        queries: samples to classify per class.
        episodes: how many; 10,000 as in SimpleShot.
        seed: the same seed draws the same episodes for every level.
        classifier: nearest centroid by Euclidean distance on features as they are (`simpleshot-un`), L2-normalised
            (`simpleshot-l2n`, also called `prototype`), or less the base mean and then L2-normalised
            (`simpleshot-cl2n`); `ridge` regression or logistic regression (`logreg`, C = 1) on L2-normalised features.
        base_mean: float32 [D], the mean feature of the TRAIN split; `simpleshot-cl2n` needs it, the others take none.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, too few classes or samples, or a base mean missing or of wrong width.
        UnknownNameError: an unknown classifier.

    Source: SimpleShot (arXiv:1911.04623) for the transforms, 10,000 episodes and 15 queries; Tian et al.
        (arXiv:2003.11539) for logistic regression on normalised features with C = 1.

    Deviation: papers print 1.96 std / sqrt(episodes), which no draw of other images need fall into.
    """
    started = time.perf_counter()
    test, notes = check_one(test, "few-shot", num_classes=num_classes)
    drawn = draw_episodes(
        test.labels,
        num_classes=num_classes,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=episodes,
        seed=seed,
        class_names=class_names,
    )
    absent = num_classes - len(np.unique(test.labels))
    if absent:
        notes = (*notes, f"{absent} of {num_classes} classes have no sample and are never drawn")
    result = classify_episodes(test.features, drawn, classifier=classifier, base_mean=base_mean)
    return replace(result, seconds=time.perf_counter() - started, notes=(*notes, *result.notes))


def classify_episodes(
    features: NDArray[np.float32],
    episodes: Episodes,
    *,
    classifier: Classifier = "prototype",
    base_mean: NDArray[np.float32] | None = None,
) -> FewShotResult:
    """Return the result of `classifier` on given `episodes`; `few_shot` says what the arguments mean.

    Raises:
        ProbeError: NaN, or a base mean missing or of wrong width.
        UnknownNameError: an unknown classifier.
    """
    started = time.perf_counter()
    if classifier not in SOLVERS:
        raise unknown("few-shot classifier", classifier, SOLVERS)
    if (base_mean is None) == (classifier == "simpleshot-cl2n"):
        raise ProbeError(
            "simpleshot-cl2n needs base_mean, the mean feature of the train split"
            if base_mean is None
            else f"base_mean has no part in {classifier}; use simpleshot-cl2n, or leave it out"
        )
    solve = SOLVERS[classifier]
    checked, centroids = check_features(features, "few-shot"), solve is nearest_centroid
    pool, notes = make_pool(checked, unit=classifier != "simpleshot-un", rescale=centroids, base_mean=base_mean)
    _, ways, shots = episodes.support.shape
    truth = torch.arange(ways).repeat_interleave(episodes.queries.shape[2])
    support, queries = torch.from_numpy(episodes.support), torch.from_numpy(episodes.queries).flatten(1)

    def measure(chosen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        scores = solve(pool.rows, chosen, asked)
        guesses = scores.argmax(dim=2)
        if centroids:
            settle(pool, chosen, asked, scores, guesses)
        return guesses == truth

    chunks = zip(*(torch.split(rows, _CHUNK_EPISODES) for rows in (support, queries)), strict=True)
    answers = list(side_by_side([partial(measure, *chunk) for chunk in chunks], workers=torch.get_num_threads()))
    right = torch.cat(answers).numpy().reshape(episodes.queries.shape)
    each, total = right.mean(axis=(1, 2), dtype=np.float64), len(features)
    seen = image_values(right, episodes)
    return FewShotResult(
        score=share_interval(float(each.mean()), seen.variance, num_samples=total, method="images (jackknife)"),
        image_values=seen.values,
        episode_accuracies=each.astype(np.float32),
        classifier=classifier,
        ways=ways,
        shots=shots,
        queries=episodes.queries.shape[2],
        seconds=time.perf_counter() - started,
        notes=notes,
    )

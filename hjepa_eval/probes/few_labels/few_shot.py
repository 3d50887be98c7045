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
from hjepa_eval.metrics.intervals import Interval, mean_interval
from hjepa_eval.probes.few_labels.classifiers import SOLVERS, Classifier
from hjepa_eval.probes.few_labels.episodes import Episodes, draw_episodes
from hjepa_eval.probes.samples import Samples, check_features, check_one, zero_rows_note
from hjepa_eval.probes.side_by_side import side_by_side

# So many fits share their steps; more only take memory.
_CHUNK_EPISODES = 1000


@dataclass(frozen=True)
class FewShotResult:
    """Accuracy over few-shot episodes.

    Attributes:
        score: mean accuracy over episodes with 1.96 * std / sqrt(episodes); `num_samples` counts episodes.
        episode_accuracies: float32 [E], in the order of the episodes, so that levels can be compared in pairs.
        classifier: the name asked for.
        ways: W.
        shots: S.
        queries: Q, per class.
        seconds: wall-clock time.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
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

    Source: SimpleShot (arXiv:1911.04623) for the transforms, 10,000 episodes, 15 queries and the interval; Tian et al.
        (arXiv:2003.11539) for logistic regression on normalised features with C = 1.
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
    placed, notes = _placed(check_features(features, "few-shot"), classifier, base_mean)
    solve = SOLVERS[classifier]
    _, ways, shots = episodes.support.shape
    truth = torch.arange(ways).repeat_interleave(episodes.queries.shape[2])
    support, queries = torch.from_numpy(episodes.support), torch.from_numpy(episodes.queries).flatten(1)

    def measure(chosen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        right = solve(placed, chosen, asked).argmax(dim=2) == truth
        return right.to(torch.float32).mean(dim=1)

    chunks = zip(*(torch.split(rows, _CHUNK_EPISODES) for rows in (support, queries)), strict=True)
    accuracies = list(side_by_side([partial(measure, *chunk) for chunk in chunks], workers=torch.get_num_threads()))
    each = torch.cat(accuracies).numpy()
    return FewShotResult(
        score=mean_interval(each),
        episode_accuracies=each,
        classifier=classifier,
        ways=ways,
        shots=shots,
        queries=episodes.queries.shape[2],
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _placed(
    features: NDArray[np.float32], classifier: Classifier, base_mean: NDArray[np.float32] | None
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the features [N, D] after the classifier's transform, once for all episodes."""
    if (base_mean is None) == (classifier == "simpleshot-cl2n"):
        raise ProbeError(
            "simpleshot-cl2n needs base_mean, the mean feature of the train split"
            if base_mean is None
            else f"base_mean has no part in {classifier}; use simpleshot-cl2n, or leave it out"
        )
    rows = torch.from_numpy(features)
    if classifier == "simpleshot-un":
        return rows, ()
    if base_mean is not None:
        if base_mean.shape != (rows.shape[1],):
            raise ProbeError(
                f"base_mean has shape {list(base_mean.shape)}; expected [{rows.shape[1]}], as the features"
            )
        rows = rows - torch.from_numpy(np.asarray(base_mean, dtype=np.float32))
    return torch.nn.functional.normalize(rows, dim=1), zero_rows_note(rows.numpy(), "few-shot")

"""The part neighbours: retrieval, clusters, images of another kind, how bad mistakes are, and the worst group."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.clustering import clustering
from hjepa_eval.analysis.retrieval import detect, mistake_severity, retrieval, worst_group
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.profile.knowledge import Knowledge
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.metrics.intervals import Interval, wilson
from hjepa_eval.probes.search.search import Neighbours, nearest
from hjepa_eval.probes.voting import count_votes
from hjepa_eval.results.profiles import Measure

DEPTH = 50
VOTERS = 20
_RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Stranger:
    """Test images of another data set as a level sees them.

    Attributes:
        name: of the data set.
        features: float32 `[M, D]`.
    """

    name: str
    features: NDArray[np.float32]


def measure_neighbours(
    row: LevelRow, knowledge: Knowledge, *, group: str, stranger: Stranger | None = None
) -> tuple[Measure, ...]:
    """Return what the nearest train images of test images are good for at a level.

    Args:
        row: the level.
        knowledge: of the images: superclasses and groups.
        group: factor whose worst group is told, where the data set has it.
        stranger: images of another kind.
    """
    train, test = row.stream("train"), row.samples("test")
    depth = min(DEPTH, len(train))
    near = nearest(train.features, test.features, k=depth, device=row.features.device)
    voters = min(VOTERS, depth)
    votes = count_votes(near, train.labels, test.labels, num_classes=len(row.class_names), ks=(voters,))[voters][0]
    right = votes == test.labels
    found = wilson(int(right.sum()), len(right))
    measures = [_measure(f"kNN k={voters}", found, {"k": voters})]
    measures += _retrieval(near, train.labels, test.labels)
    measures += _clusters(test.features, test.labels)
    if stranger is not None:
        measures += _detection(row, near, stranger, depth)
    if knowledge.superclass is not None:
        measures += _severity(votes, test.labels, knowledge.superclass)
    measures += _groups(row, knowledge, right, group)
    return tuple(measures)


def _measure(name: str, found: Interval, parameters: dict[str, int | float | str]) -> Measure:
    return Measure(
        name=name,
        value=found.value,
        low=found.low,
        high=found.high,
        num_samples=found.num_samples,
        parameters=parameters,
    )


def _retrieval(near: Neighbours, labels: NDArray[np.int64], queries: NDArray[np.int64]) -> Iterator[Measure]:
    depth = near.index.shape[1]
    ranked = retrieval(near.index, labels, queries, ks=tuple(k for k in _RECALLS if k <= depth))
    for k, share in ranked.recall.items():
        yield _measure(f"recall@{k}", share, {"k": k})
    yield _measure("mAP", ranked.average_precision, {"depth": ranked.depth})


def _clusters(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[Measure]:
    try:
        found = clustering(features, labels)
    except ProbeError as error:
        yield Measure(name="clustering accuracy", value=None, num_samples=len(labels), note=str(error))
        return
    for name, values in (("accuracy", found.accuracy), ("NMI", found.nmi), ("ARI", found.ari)):
        mean = statistics.fmean(values)
        yield Measure(name=f"clustering {name}", value=mean, values=values, num_samples=len(labels))


def _detection(row: LevelRow, near: Neighbours, stranger: Stranger, depth: int) -> Iterator[Measure]:
    bank = row.stream("train").features
    others = nearest(bank, stranger.features, k=depth, device=row.features.device)
    # A smaller cosine with the k-th neighbour is a larger distance to it.
    found = detect(-near.similarity[:, -1], -others.similarity[:, -1])
    about: dict[str, int | float | str] = {"k": depth, "dataset": stranger.name}
    count = len(near.similarity) + len(others.similarity)
    yield Measure(name="OOD AUROC", value=found.auroc, chance=0.5, num_samples=count, parameters=about)
    yield Measure(name="OOD FPR95", value=found.fpr95, chance=0.95, num_samples=count, parameters=about)


def _severity(votes: NDArray[np.int64], labels: NDArray[np.int64], superclass: NDArray[np.int64]) -> Iterator[Measure]:
    found = mistake_severity(votes, labels, superclass)
    if found is not None:
        yield Measure(
            name="mistakes within superclass", value=found.within, chance=found.random, num_samples=found.mistakes
        )


def _groups(row: LevelRow, knowledge: Knowledge, right: NDArray[np.bool_], group: str) -> Iterator[Measure]:
    named = {name: known for name, known in knowledge.factors.items() if name in ("class", group)}
    for name, known in named.items():
        if known.kind != "categorical":
            continue
        values = known.values("test", row.index("test"))
        shown = ~np.isnan(values)
        worst, accuracy, count = worst_group(right[shown], values[shown].astype(np.int64))
        which = known.factor["test"].categories[worst]
        yield Measure(name=f"worst {name}", value=accuracy, num_samples=count, parameters={name: which})

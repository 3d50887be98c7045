"""Clusters without labels: k-means by FAISS, and how well they match the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError

SEEDS = 10
_ITERATIONS = 25


@dataclass(frozen=True)
class Clustering:
    """Agreement of clusters with classes, one value per seed of k-means.

    Attributes:
        accuracy: share of images in the cluster that an optimal one-to-one matching gives to their class.
        nmi: normalised mutual information, arithmetic mean of the entropies.
        ari: adjusted Rand index.
    """

    accuracy: tuple[float, ...]
    nmi: tuple[float, ...]
    ari: tuple[float, ...]


def cluster_labels(features: NDArray[np.floating], clusters: int, *, seed: int) -> NDArray[np.int64]:
    """Return the k-means cluster of each row of features `[N, D]`, centred and scaled to length 1, int64 `[N]`.

    Raises:
        ProbeError: fewer images than clusters.
    """
    import torch  # isort: skip # before faiss: the order of loading decides which OpenMP both take
    import faiss

    if len(features) < clusters:
        raise ProbeError(f"{clusters} clusters of {len(features)} images; give at least one image per cluster")
    rows = np.asarray(features, dtype=np.float64)
    rows = rows - rows.mean(axis=0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.ascontiguousarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)
    kmeans = faiss.Kmeans(
        unit.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1 << 30,
    )
    kmeans.train(unit)
    return np.asarray(torch.from_numpy(kmeans.index.search(unit, 1)[1][:, 0]).numpy(), dtype=np.int64)


def compare_clusters(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return matched accuracy, NMI and ARI of clusters `[N]` and labels `[N]`.

    Source: Kuhn 1955 for the matching (`scipy.optimize.linear_sum_assignment`); scikit-learn for NMI and ARI.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = np.zeros((int(clusters.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(table, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    accuracy = float(table[rows, columns].sum() / len(labels))
    return accuracy, float(normalized_mutual_info_score(labels, clusters)), float(adjusted_rand_score(labels, clusters))


def clustering(features: NDArray[np.floating], labels: NDArray[np.int64], *, seeds: int = SEEDS) -> Clustering:
    """Return how k-means with as many clusters as classes matches the classes, for several seeds.

    Raises:
        ProbeError: fewer images than classes.
    """
    classes = len(np.unique(labels))
    scores = [compare_clusters(cluster_labels(features, classes, seed=seed), labels) for seed in range(seeds)]
    accuracy, nmi, ari = zip(*scores, strict=True)
    return Clustering(accuracy, nmi, ari)

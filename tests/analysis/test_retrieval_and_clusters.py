from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hjepa_eval.analysis.clustering import cluster_labels, clustering, compare_clusters
from hjepa_eval.analysis.retrieval import detect, mistake_severity, retrieval, worst_group
from hjepa_eval.errors import ProbeError


def test_retrieval__by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    lists = np.array([[0, 2, 1], [0, 1, 2], [3, 4, 2]])
    result = retrieval(lists, labels, np.array([0, 1, 1]), ks=(1, 2, 3))
    assert [result.recall[k].value for k in (1, 2, 3)] == [pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0]
    # (1 + 2/3) / 2, then (1/3) / 3, then (1 + 1 + 1) / 3
    np.testing.assert_allclose(result.outcomes, [(1 + 2 / 3) / 2, 1 / 9, 1.0])


def test_retrieval__of_whole_rankings_is_scikit_learns_average_precision() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(4, size=60), generator.normal(size=(5, 60))
    queries = np.arange(5) % 4
    wanted = [average_precision_score(labels == query, row) for query, row in zip(queries, scores, strict=True)]
    result = retrieval(np.argsort(-scores, axis=1), labels, queries)
    np.testing.assert_allclose(result.outcomes, wanted)
    with pytest.raises(ProbeError, match="recall at 10"):
        retrieval(np.zeros((2, 3), np.int64), labels, queries[:2])


def test_detect__is_scikit_learns_auroc_with_ties_and_fpr_by_hand() -> None:
    generator = np.random.default_rng(0)
    known, other = generator.integers(8, size=200), generator.integers(3, 12, size=150)
    wanted = roc_auc_score([0] * 200 + [1] * 150, np.concatenate([known, other]))
    found = detect(known.astype(float), other.astype(float))
    assert found.auroc == pytest.approx(wanted, abs=1e-12)
    threshold = np.sort(known)[189]
    assert found.fpr95 == (other <= threshold).mean()
    assert detect(np.zeros(10), np.ones(10)).auroc == 1
    with pytest.raises(ProbeError, match="NaN"):
        detect(np.array([np.nan]), np.ones(2))


def test_severity__counts_mistakes_within_the_superclass() -> None:
    superclass = np.array([0, 0, 1, 1])
    severity = mistake_severity(np.array([1, 2, 3, 0]), np.array([0, 0, 2, 0]), superclass)
    assert severity is not None
    assert (severity.within, severity.random, severity.mistakes) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 3)
    assert mistake_severity(np.array([0]), np.array([0]), superclass) is None


def test_worst_group__skips_groups_without_images() -> None:
    assert worst_group(np.array([True, False, True, True]), np.array([0, 0, 2, 2])) == (0, 0.5, 2)


def test_compare_clusters__matches_as_the_best_renaming_does() -> None:
    generator = np.random.default_rng(0)
    clusters, labels = generator.integers(4, size=100), generator.integers(4, size=100)
    best = max((np.array(names)[clusters] == labels).mean() for names in permutations(range(4)))
    assert compare_clusters(clusters, labels)[0] == pytest.approx(best)
    assert compare_clusters(labels, (labels + 1) % 4) == (1.0, pytest.approx(1.0), 1.0)


def test_clustering__finds_blobs_and_repeats_itself() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 5
    rows = 10 * np.eye(8)[labels] + generator.normal(size=(300, 8))
    result = clustering(rows, labels, seeds=5)
    assert max(result.accuracy) == 1.0
    assert np.array_equal(cluster_labels(rows, 5, seed=3), cluster_labels(rows, 5, seed=3))
    with pytest.raises(ProbeError, match="clusters"):
        cluster_labels(rows[:3], 5, seed=0)

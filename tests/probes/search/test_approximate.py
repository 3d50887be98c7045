"""Approximate indexes: most of the neighbours, true similarities, an honest recall, and no silent way out."""

from __future__ import annotations

import numpy as np
import pytest

import hjepa_eval.probes.search.approximate as approximate_module
import hjepa_eval.probes.search.engines as engines_module
import hjepa_eval.probes.search.search as search_module
from hjepa_eval.errors import ProbeError, UnknownNameError
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.probes.search.bank import ArrayBank
from hjepa_eval.probes.search.search import nearest

ROWS = 10_400  # codes need 10,240


@pytest.fixture(scope="module")
def groups() -> tuple[Samples, Samples]:
    """Noise in 4 of 16 dimensions about 50 points, as real features are neither spread evenly nor all alike."""
    generator = np.random.default_rng(0)
    centres, directions = generator.normal(size=(50, 16)), generator.normal(size=(4, 16))

    def draw(count: int) -> Samples:
        labels = generator.integers(0, 50, count)
        noise = generator.normal(size=(count, 4)) @ directions + 0.05 * generator.normal(size=(count, 16))
        return Samples((centres[labels] + noise).astype(np.float32), labels)

    return draw(ROWS), draw(300)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("index", ["ivf", "hnsw", "ivfpq"])
def test_approximate__finds_most_with_true_similarities_and_says_how_many(groups, metric: str, index: str) -> None:
    bank, queries = (samples.features for samples in groups)
    exact = nearest(bank, queries, k=20, metric=metric)
    found = nearest(ArrayBank(bank), queries, k=20, metric=metric, index=index)
    share = np.mean([np.isin(ours, theirs).mean() for ours, theirs in zip(found.index, exact.index, strict=True)])
    assert found.recall == pytest.approx(share)
    assert 0.8 < share <= 1
    assert (found.index_kind, found.backend) == (index, "faiss")
    rows = bank[found.index].astype(np.float64)
    asked = queries[:, None].astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(rows, axis=2) * np.linalg.norm(asked, axis=2)
        true = (rows * asked).sum(axis=2) / norms
    else:
        true = -((rows - asked) ** 2).sum(axis=2)
    assert np.allclose(found.similarity, true, rtol=1e-5, atol=2e-5)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    assert (
        f"approximate index {index}: {100 * share:.1f} % of the 20 nearest found, measured on 300 queries"
        in (found.notes[-1])
    )


def test_approximate__a_probe_of_every_list_is_the_exact_search(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicates and zero rows too: where all candidates are seen, near-ties are settled alike."""
    bank, queries = (samples.features[:4000].copy() for samples in groups)
    bank[2000:2300] = bank[:300]
    bank[7] = 0
    monkeypatch.setattr(approximate_module, "_number_of_lists", lambda kind, rows: (5, ()))
    found = nearest(bank, queries, k=30, index="ivf")
    assert found.recall == 1
    assert (found.index == nearest(bank, queries, k=30).index).all()


def test_approximate__ivf_is_seeded_and_pieces_do_not_matter(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = groups[0].features[:2000], groups[1].features
    once = nearest(bank, queries, k=10, index="ivf")
    monkeypatch.setattr(search_module, "_PIECE_ELEMENTS", 8 * 18 * 50)
    again = nearest(bank, queries, k=10, index="ivf")
    assert (once.index == again.index).all()
    assert once.recall == again.recall


def test_approximate__recall_is_measured_on_a_sample(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_RECALL_QUERIES", 60)
    found = nearest(groups[0].features, groups[1].features, k=10, index="ivf")
    assert "measured on 60 queries against exact search" in found.notes[-1]


def test_knn__approximate_votes_carry_the_recall(groups) -> None:
    train, test = groups
    streamed = StreamedSamples(ArrayBank(train.features), train.labels)
    exact = knn(train, test, num_classes=50, ks=(5, 20))
    for samples in (train, streamed):
        found = knn(samples, test, num_classes=50, ks=(5, 20), index="ivf")
        assert [note.split(":")[0] for note in found.notes[1:]] == ["approximate index ivf"]
        assert abs(found.scores[20].value - exact.scores[20].value) < 0.05
    assert exact.notes == ()


def test_approximate__fewer_lists_than_usual_are_noted(groups) -> None:
    found = nearest(groups[0].features[:1000], groups[1].features, k=5, index="ivf")
    assert found.notes[0] == "the index ivf has 25 lists instead of 126: 1,000 rows train no more"
    assert len(nearest(groups[0].features[:1000], groups[1].features, k=5, index="hnsw").notes) == 1


def test_approximate__refuses_what_it_cannot_do(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = (samples.features for samples in groups)
    with pytest.raises(ProbeError, match="leave-one-out needs the exact search; use the index flat instead of hnsw"):
        nearest(bank, k=5, index="hnsw")
    with pytest.raises(ProbeError, match="a bank of 39 rows is too small to train the index ivf, which needs 40"):
        nearest(bank[:39], queries, k=5, index="ivf")
    with pytest.raises(ProbeError, match="a bank of 10000 rows is too small to train the index ivfpq"):
        nearest(bank[:10_000], queries, k=5, index="ivfpq")
    with pytest.raises(ProbeError, match="17 dimensions cannot be cut"):
        nearest(np.zeros((ROWS, 17), np.float32), np.zeros((1, 17), np.float32), k=1, index="ivfpq")
    with pytest.raises(ProbeError, match="the index ivf is FAISS's"):
        nearest(bank, queries, k=5, index="ivf", backend="torch")
    with pytest.raises(UnknownNameError, match="did you mean 'ivfpq'"):
        nearest(bank, queries, k=5, index="ivfqp")
    monkeypatch.setattr(engines_module, "faiss_problem", lambda: "its library does not load")
    with pytest.raises(ProbeError, match="FAISS cannot be used"):
        nearest(bank, queries, k=5, index="ivf")


def test_approximate__an_index_that_finds_too_few_is_an_error(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list of the nearest rows is too short for k = 300; the empty places are never taken as rows."""
    bank, queries = groups[0].features[:4000], groups[1].features
    monkeypatch.setattr(approximate_module, "_ROWS_PER_CANDIDATE", 0)
    with pytest.raises(ProbeError, match=r"fewer than k = 2000 neighbours for \d+ of 300 queries; use a smaller k"):
        nearest(bank, queries, k=2000, index="ivf")

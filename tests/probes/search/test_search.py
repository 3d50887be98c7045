"""Exact search against brute force in float64, with duplicates, and the same from every backend and chunk."""

from __future__ import annotations

import numpy as np
import pytest

import hjepa_eval.probes.search.engines as engines_module
from hjepa_eval.errors import ProbeError, UnknownNameError
from hjepa_eval.probes.samples import Samples
from hjepa_eval.probes.search.search import nearest

BACKENDS = ("faiss", "torch")


def brute_force(bank: np.ndarray, queries: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Indices by (nearer, then lower index), in float64."""
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (queries, bank)]
        similarity = unit[0] @ unit[1].T
    else:
        similarity = -((queries[:, None] - bank[None]) ** 2).sum(axis=2)
    return np.argsort(-np.round(similarity, 9), axis=1, kind="stable")[:, :k]


@pytest.fixture(scope="module")
def crowd() -> tuple[np.ndarray, np.ndarray]:
    """A bank in which half of the rows occur twice or more, and queries of which some are bank rows."""
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(1200, 24)).astype(np.float32)
    bank[600:900] = bank[:300]
    bank[900:1000] = bank[7]
    queries = generator.normal(size=(150, 24)).astype(np.float32)
    queries[:20] = bank[:20]
    return bank, queries


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block_rows", [100, 131_072])
def test_nearest__equals_brute_force_with_duplicates(crowd, metric: str, backend: str, block_rows: int) -> None:
    found = nearest(*crowd, k=30, metric=metric, backend=backend, block_rows=block_rows)
    assert (found.index == brute_force(*crowd, 30, metric)).all()
    assert found.backend == backend
    assert (np.diff(found.similarity, axis=1) <= 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearest__ties_go_to_the_lower_index(backend: str) -> None:
    flat = np.ones((500, 8), np.float32)
    assert (nearest(flat, flat[:7], k=20, backend=backend).index == np.arange(20)).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nearest__leave_one_out_never_finds_itself(crowd, metric: str, backend: str) -> None:
    bank = crowd[0]
    found = nearest(bank, k=10, metric=metric, backend=backend)
    everyone = brute_force(bank, bank, 400, metric)
    expected = [[j for j in row if j != i][:10] for i, row in enumerate(everyone)]
    assert (found.index == np.array(expected)).all()


def test_nearest__few_queries_find_what_many_find(crowd) -> None:
    """FAISS takes another path below 20 queries."""
    bank, queries = crowd
    together = nearest(bank, queries, k=15).index
    assert (np.concatenate([nearest(bank, queries[i : i + 1], k=15).index for i in range(40)]) == together[:40]).all()


def test_nearest__real_digits_have_the_same_neighbours_from_both_backends(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    ours = [nearest(train.features, test.features, k=200, backend=backend) for backend in BACKENDS]
    assert (ours[0].index == ours[1].index).all()
    assert np.allclose(ours[0].similarity, ours[1].similarity, atol=1e-6)


def test_nearest__zero_vectors_have_cosine_zero() -> None:
    bank = np.array([[0, 0], [-1, 0], [1, 0]], np.float32)
    found = nearest(bank, np.array([[1, 0], [0, 0]], np.float32), k=3)
    assert found.index.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert found.similarity.tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_nearest__cosine_does_not_depend_on_the_size_of_features(crowd, size: float) -> None:
    bank, queries = crowd
    scaled = nearest(bank * np.float32(size), queries * np.float32(size), k=10)
    assert (scaled.index == nearest(bank, queries, k=10).index).all()


def test_nearest__distances_survive_a_large_common_offset(crowd) -> None:
    """|x|^2 + |y|^2 - 2 x.y in float32 would lose every digit here; centring keeps them."""
    bank, queries = (np.round(rows * 64) / 64 + np.float32(4096) for rows in crowd)
    assert (nearest(bank, queries, k=10, metric="euclidean").index == brute_force(bank, queries, 10, "euclidean")).all()


def test_nearest__without_faiss_torch_searches(crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "faiss_problem", lambda: "its library does not load")
    assert nearest(*crowd, k=5).backend == "torch"
    with pytest.raises(ProbeError, match="pip install faiss-cpu"):
        nearest(*crowd, k=5, backend="faiss")


def test_nearest__does_not_change_its_input(crowd) -> None:
    before = [rows.copy() for rows in crowd]
    nearest(*crowd, k=5, metric="euclidean")
    assert all((rows == old).all() for rows, old in zip(crowd, before, strict=True))


def test_nearest__refuses_impossible_k_and_unknown_names(crowd) -> None:
    bank, queries = crowd
    with pytest.raises(ProbeError, match="use 1 to 1200"):
        nearest(bank, queries, k=1201)
    with pytest.raises(ProbeError, match="use 1 to 1199"):
        nearest(bank, k=1200)
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        nearest(bank, queries, k=1, metric="cosin")
    with pytest.raises(UnknownNameError, match="backend"):
        nearest(bank, queries, k=1, backend="annoy")

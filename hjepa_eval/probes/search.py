"""Exact nearest neighbours, with one tie rule for every backend: the nearer, then the lower index.

A search in float32 finds a few candidates more than asked for. Its rounding (and so its order of near-ties) depends on
the backend, the chunk and the position of a row, so candidates closer to each other than that rounding are compared
again in float64. The answer is then a property of the data, not of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch  # before faiss: two CUDA runtimes can live in one process only in that order
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, unknown
from hjepa_eval.probes.similarity import NEAR, PLACES, Metric, Space, make_space

Backend = Literal["auto", "faiss", "torch"]

# Rows are numbered in this many bits of a key that also holds the similarity.
INDEX_BITS = 24
_SPARE = 8
_BLOCK_ROWS = 131_072
_CHUNK_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class Neighbours:
    """The nearest bank rows of each query.

    Attributes:
        similarity: float32 [Q, k], falling along k. Cosine in [-1, 1], or minus the squared Euclidean distance.
        index: int64 [Q, k], rows of the bank.
        backend: `faiss` or `torch`, what did the search.
    """

    similarity: NDArray[np.float32]
    index: NDArray[np.int64]
    backend: str


@cache
def faiss_problem() -> str | None:
    """Return why FAISS cannot be imported here, or None when it can."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def choose_backend(backend: Backend) -> str:
    """Return `faiss` or `torch` for what was asked.

    Raises:
        UnknownNameError: there is no such backend.
        ProbeError: FAISS was asked for by name and is not installed.
    """
    if backend not in get_args(Backend):
        raise unknown("search backend", backend, get_args(Backend))
    installed = faiss_problem() is None
    if backend == "faiss" and not installed:
        raise ProbeError(f"FAISS cannot be used ({faiss_problem()}); use the backend torch, or: pip install faiss-cpu")
    return "faiss" if backend != "torch" and installed else "torch"


def nearest(
    bank: NDArray[np.float32],
    queries: NDArray[np.float32] | None = None,
    *,
    k: int,
    metric: Metric = "cosine",
    backend: Backend = "auto",
    block_rows: int = _BLOCK_ROWS,
) -> Neighbours:
    """Find the `k` nearest rows of `bank` [N, D] for every row of `queries` [Q, D].

    Memory beyond the input: one block of the bank in float32 and the candidates, so the bank may be a memory map.

    Args:
        bank: float32 [N, D], finite; N < 2^24.
        queries: float32 [Q, D], finite. None means leave-one-out: the queries are the bank, and no row finds itself.
        k: how many; at most N (N - 1 for leave-one-out).
        metric: `cosine` (rows are normalised here; a zero vector has cosine 0 with everything) or `euclidean`.
        backend: `faiss` or `torch`; `auto` prefers FAISS where it is installed. The answer is the same.
        block_rows: how many bank rows are searched at a time; the answer does not depend on it.

    Raises:
        ProbeError: k or the sizes do not fit together, or FAISS was asked for and is absent.
        UnknownNameError: an unknown metric or backend.
    """
    if metric not in get_args(Metric):
        raise unknown("metric", metric, get_args(Metric))
    largest = len(bank) - (queries is None)
    if not 1 <= k <= largest:
        raise ProbeError(f"k = {k} neighbours do not exist in a bank of {len(bank)} rows; use 1 to {largest}")
    if len(bank) >= 1 << INDEX_BITS:
        raise ProbeError(f"a bank of {len(bank)} rows is too large for one search; split it below {1 << INDEX_BITS}")
    used = choose_backend(backend)
    rows = torch.from_numpy(bank)
    asked = rows if queries is None else torch.from_numpy(queries)
    space = make_space(rows, asked, metric)
    count = k + (queries is None)
    similarity, index = _candidates(rows, asked, space, min(count + _SPARE, len(bank)), used, block_rows)
    similarity, index = _settle(rows, asked, space, similarity, index, count)
    if queries is None:
        similarity, index = _without_self(similarity, index)
    return Neighbours((similarity * space.scale**2).to(torch.float32).numpy(), index.numpy(), used)


def _candidates(
    bank: torch.Tensor, queries: torch.Tensor, space: Space, count: int, backend: str, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 similarity and index [Q, count], by a float32 search over blocks of the bank, merged."""
    placed = space.place(queries)
    search = _search_faiss if backend == "faiss" else _search_torch
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for start in range(0, len(bank), block_rows):
        block = space.place(bank[start : start + block_rows])
        similarity, index = search(block, placed, min(count, len(block)), space.metric)
        index += start
        if best is not None:
            joined = torch.cat([best[0], similarity], dim=1)
            similarity, order = joined.topk(min(count, joined.shape[1]), dim=1)
            index = torch.cat([best[1], index], dim=1).gather(1, order)
        best = similarity, index
    assert best is not None  # a bank has at least one row
    return best


def _search_faiss(
    block: torch.Tensor, queries: torch.Tensor, count: int, metric: Metric
) -> tuple[torch.Tensor, torch.Tensor]:
    import faiss

    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    score, index = faiss.knn(queries.numpy(), block.numpy(), count, metric=kind)
    similarity = torch.from_numpy(score)
    return (similarity if metric == "cosine" else similarity.neg_()), torch.from_numpy(index)


def _search_torch(
    block: torch.Tensor, queries: torch.Tensor, count: int, metric: Metric
) -> tuple[torch.Tensor, torch.Tensor]:
    squares = block.square().sum(dim=1)
    parts = []
    for chunk in _chunks(queries, len(block)):
        product = chunk @ block.T
        if metric == "euclidean":
            product = product.mul_(2).sub_(squares).sub_(chunk.square().sum(dim=1, keepdim=True))
        parts.append(product.topk(count, dim=1))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _chunks(rows: torch.Tensor, width: int) -> Iterator[torch.Tensor]:
    """Yield pieces of `rows` such that a piece times `width` numbers fit in the memory of a chunk."""
    yield from torch.split(rows, max(1, _CHUNK_ELEMENTS // width))


def _settle(
    bank: torch.Tensor,
    queries: torch.Tensor,
    space: Space,
    similarity: torch.Tensor,
    index: torch.Tensor,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first `count` of the candidates [Q, count + spare], near-ties ordered by float64, then by index."""
    near = NEAR[space.metric]
    close = similarity[:, :-1] - similarity[:, 1:] <= near
    similarity = similarity.to(torch.float64)
    either = torch.zeros(similarity.shape, dtype=torch.bool)
    either[:, :-1] = close
    either[:, 1:] |= close
    places = torch.nonzero(either)
    for row, column in (piece.unbind(1) for piece in _chunks(places, 16 * bank.shape[1])):
        similarity[row, column] = space.exact(queries[row], bank[index[row, column]])
    similarity, index = _in_order(similarity, index)
    if index.shape[1] < len(bank):
        # So many near-ties at the end that some were not even candidates: duplicates, or collapsed features.
        crowded = torch.nonzero(similarity[:, count - 1] - similarity[:, -1] <= near)[:, 0]
        # Splitting nothing gives one empty piece, and that would still convert the whole bank.
        for piece in _chunks(crowded, 8 * len(bank)) if len(crowded) else ():
            similarity[piece, :count], index[piece, :count] = _search_exact(bank, queries[piece], space, count)
    return similarity[:, :count], index[:, :count]


def _in_order(similarity: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [Q, K] with every row ordered by falling similarity, then by rising index; few rows are not already."""
    step = similarity[:, 1:] - similarity[:, :-1]
    wrong = ((step > 0) | ((step == 0) & (index[:, 1:] < index[:, :-1]))).any(dim=1)
    by_index = index[wrong].sort(dim=1)
    ordered = similarity[wrong].gather(1, by_index.indices).sort(dim=1, descending=True, stable=True)
    similarity[wrong], index[wrong] = ordered.values, by_index.values.gather(1, ordered.indices)
    return similarity, index


def _search_exact(
    bank: torch.Tensor, queries: torch.Tensor, space: Space, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float64 similarity and index [Q, count] by keys that join similarity and index, so that none are equal."""
    similarity = space.exact_matrix(queries, bank)
    last = (1 << INDEX_BITS) - 1
    key = (similarity * 2.0**PLACES).to(torch.int64) * (last + 1) + (last - torch.arange(len(bank)))
    index = last - (key.topk(count, dim=1).values & last)
    return similarity.gather(1, index), index


def _without_self(similarity: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [Q, k] from [Q, k + 1]: each row without its own number or, if duplicates hide it, without its last."""
    own = index == torch.arange(len(index))[:, None]
    own[:, -1] |= ~own.any(dim=1)
    keep = ~own
    shape = (len(index), index.shape[1] - 1)
    return similarity[keep].reshape(shape), index[keep].reshape(shape)

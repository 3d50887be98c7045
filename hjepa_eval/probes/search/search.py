"""Nearest neighbours, with one tie rule for every backend: the nearer, then the lower index.

A search in float32 finds a few candidates more than asked for. Its rounding (and so its order of near-ties) depends on
the backend, the device, the block and the position of a row, so candidates closer to each other than that rounding are
compared again in float64. The answer is then a property of the data, not of the machine.

The bank is read block by block and the queries are taken in pieces, so memory is bounded whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, unknown
from hjepa_eval.probes.search.approximate import ApproximateSearch, IndexKind, build_search
from hjepa_eval.probes.search.bank import Bank, Metric, Space, as_bank, make_space, numbered_blocks, rows_per_block
from hjepa_eval.probes.search.engines import Backend, Engine, Found, choose_engine
from hjepa_eval.probes.search.settling import settle

_SPARE = 8
_PIECE_ELEMENTS = 1 << 25
_RECALL_QUERIES = 1000


@dataclass(frozen=True)
class Neighbours:
    """The nearest bank rows of each query.

    Attributes:
        similarity: float64 [Q, k], falling along k. Cosine in [-1, 1], or minus the squared Euclidean distance.
        index: int64 [Q, k], rows of the bank.
        backend: what did the search: `faiss` or `torch`, with `-cuda` behind it if on GPUs.
        index_kind: `flat`, the exact search, or an approximate index.
        recall: share of the exact k nearest that an approximate index finds, on a sample of queries; None if exact.
        notes: what a reader of the numbers must know about an approximate index.
    """

    similarity: NDArray[np.float64]
    index: NDArray[np.int64]
    backend: str
    index_kind: IndexKind = "flat"
    recall: float | None = None
    notes: tuple[str, ...] = ()


def nearest(
    bank: NDArray | Bank,
    queries: NDArray | None = None,
    *,
    k: int,
    metric: Metric = "cosine",
    backend: Backend = "auto",
    index: IndexKind = "flat",
    device: str = "cpu",
    block_rows: int | None = None,
) -> Neighbours:
    """Find the `k` nearest rows of `bank` [N, D] for every row of `queries` [Q, D].

    Memory beyond the input and the answer: about three blocks of the bank in float32 and the candidates of a piece of
    queries, so the bank may be larger than memory. An approximate index is held in memory.

    Args:
        bank: an array or a `Bank`, finite.
        queries: [Q, D], finite. None means leave-one-out: the queries are the bank, and no row finds itself.
        k: how many; at most N (N - 1 for leave-one-out).
        metric: `cosine` (rows are normalised here; a zero vector has cosine 0 with everything) or `euclidean`.
        backend: `faiss` or `torch`; `auto` prefers FAISS where it is installed. The answer is the same.
        index: `flat` is exact; `ivf`, `hnsw` and `ivfpq` are approximate (see `approximate`), and need FAISS.
        device: `cpu`, `cuda` (all GPUs that are visible) or `cuda:0`; the answer is the same. Approximate indexes stay
            on the CPU; their recall is measured on the device.
        block_rows: how many bank rows are searched at a time; by default 128 MiB. The answer does not depend on it.

    Raises:
        ProbeError: k or the sizes do not fit together, FAISS or the device was asked for and is absent, or the bank or
            the queries do not suit an approximate index.
        UnknownNameError: an unknown metric, backend or index.
    """
    pieces = list(
        nearest_in_pieces(
            bank, queries, k=k, metric=metric, backend=backend, index=index, device=device, block_rows=block_rows
        )
    )
    if len(pieces) == 1:
        return pieces[0]
    similarity = np.concatenate([piece.similarity for piece in pieces])
    rows = np.concatenate([piece.index for piece in pieces])
    last = pieces[-1]
    return Neighbours(similarity, rows, last.backend, last.index_kind, last.recall, last.notes)


def nearest_in_pieces(
    bank: NDArray | Bank,
    queries: NDArray | Bank | None = None,
    *,
    k: int,
    metric: Metric = "cosine",
    backend: Backend = "auto",
    index: IndexKind = "flat",
    device: str = "cpu",
    block_rows: int | None = None,
    own: NDArray[np.int64] | None = None,
) -> Iterator[Neighbours]:
    """Yield what `nearest` returns for successive pieces of the queries, none of them held afterwards.

    Args:
        bank: see `nearest`, as all others.
        queries: see `nearest`; with `own` they are rows of the bank.
        k: at most N - 1 with `own`.
        metric: see `nearest`.
        backend: see `nearest`.
        index: see `nearest`.
        device: see `nearest`.
        block_rows: see `nearest`.
        own: int64 [Q], the bank row that each query is, and so must not find.
    """
    for name, known, kind in (("metric", metric, Metric), ("index", index, IndexKind)):
        if known not in get_args(kind):
            raise unknown(name, known, get_args(kind))
    bank = as_bank(bank)
    asked = bank if queries is None else as_bank(queries)
    if queries is None:
        own = np.arange(bank.shape[0])
    count = k + (own is not None)
    _check_sizes(bank, k, leave_one_out=own is not None)
    engine = choose_engine(backend, device, count=min(count + _SPARE, bank.shape[0]))
    space = make_space(bank, metric)
    exact = _ExactSearch(bank, space, engine, count, block_rows or rows_per_block(bank))
    find: _ExactSearch | ApproximateSearch = exact
    name, recall = engine.name, None
    notes: tuple[str, ...] = ()
    if index != "flat":
        find = build_search(index, bank, space, count=count, backend=backend, leave_one_out=own is not None)
        recall, measured = _measure_recall(asked, find, exact)
        found = f"{100 * recall:.1f} % of the {k} nearest found"
        note = f"approximate index {index}: {found}, measured on {measured:,} queries against exact search"
        name, notes = "faiss", (*find.notes, note)
    for first, piece in numbered_blocks(asked, max(1, _PIECE_ELEMENTS // max(bank.shape[1], 8 * find.width))):
        closeness, rows = find(piece)
        if own is not None:
            closeness, rows = _without_self(closeness, rows, torch.from_numpy(own[first : first + len(piece)]))
        yield Neighbours(space.similarity(closeness).numpy(), rows.numpy(), name, index, recall, notes)


def _check_sizes(bank: Bank, k: int, *, leave_one_out: bool) -> None:
    rows = bank.shape[0]
    largest = rows - leave_one_out
    if not 1 <= k <= largest:
        raise ProbeError(f"k = {k} neighbours do not exist in a bank of {rows} rows; use 1 to {largest}")


@dataclass(frozen=True)
class _ExactSearch:
    """Finds the nearest `count` rows of a bank."""

    bank: Bank
    space: Space
    engine: Engine
    count: int
    block_rows: int

    @property
    def width(self) -> int:
        """Number of candidates of each query."""
        return min(self.count + _SPARE, self.bank.shape[0])

    def __call__(self, queries: torch.Tensor) -> Found:
        """Return float64 closeness and index [Q, count] for `queries` [Q, D], as they are given."""
        placed = self.space.place(queries)
        found = self.engine.candidates(self.bank, placed, self.space, self.width, self.block_rows)
        return settle(self.bank, queries, placed, self.space, found, self.count)


def _measure_recall(queries: Bank, find: ApproximateSearch, exact: _ExactSearch) -> tuple[float, int]:
    """Return the share of the exact neighbours that `find` finds, and on how many of `queries`, drawn with a seed."""
    total = queries.shape[0]
    drawn = np.sort(np.random.default_rng(0).permutation(total)[:_RECALL_QUERIES])
    sample = torch.from_numpy(queries.rows(drawn))
    pairs = zip(find(sample)[1].numpy(), exact(sample)[1].numpy(), strict=True)
    common = sum(len(np.intersect1d(ours, theirs, assume_unique=True)) for ours, theirs in pairs)
    return common / (len(drawn) * exact.count), len(drawn)


def _without_self(closeness: torch.Tensor, index: torch.Tensor, own: torch.Tensor) -> Found:
    """Return [Q, k] from [Q, k + 1]: rows without their `own` number [Q] or, if duplicates hide it, their last."""
    itself = index == own[:, None]
    itself[:, -1] |= ~itself.any(dim=1)
    keep = ~itself
    shape = (len(index), index.shape[1] - 1)
    return closeness[keep].reshape(shape), index[keep].reshape(shape)

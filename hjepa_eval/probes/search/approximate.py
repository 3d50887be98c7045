"""Approximate indexes for large banks: FAISS finds candidates, their similarity is computed as in the exact search.

Source: Jegou et al. 2011 (IVF, product quantisation) and Malkov and Yashunin, arXiv:1603.09320 (HNSW), by FAISS; sizes
after its guidelines: 4 sqrt(N) lists, at least 39 training rows for each centroid, M = 32 links.

`ivf` and `hnsw` hold the bank in memory, `ivfpq` D / 8 bytes a row. All are trained with a fixed seed; `hnsw` is built
by several threads, and which finishes first moves its recall a little from run to run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.search.bank import Bank, Space, numbered_blocks, rows_per_block
from hjepa_eval.probes.search.engines import Backend, Found, choose_engine
from hjepa_eval.probes.search.settling import near_ties, rescore

IndexKind = Literal["flat", "ivf", "hnsw", "ivfpq"]

_ROWS_PER_CENTROID = 40
_PQ_CENTROIDS = 256
_LINKS = 32
_ROWS_PER_CANDIDATE = 4
_SPARE = 8
_SEED = 0


@dataclass(frozen=True)
class ApproximateSearch:
    """Finds rows that are probably the nearest `count` of a bank.

    Attributes:
        kind: `ivf`, `hnsw` or `ivfpq`.
        bank: rows [N, D].
        space: where the index lies.
        index: of FAISS, holding the placed rows.
        count: how many neighbours are asked for.
        width: how many candidates the index is asked for.
        notes: what a reader of the numbers must know.
    """

    kind: str
    bank: Bank
    space: Space
    index: Any
    count: int
    width: int
    notes: tuple[str, ...]

    def __call__(self, queries: torch.Tensor) -> Found:
        """Return float64 closeness and index [Q, count] for `queries` [Q, D], as they are given.

        Raises:
            ProbeError: the index found fewer than `count` rows for some query.
        """
        placed = self.space.place(queries)
        score, rows = self.index.search(placed.numpy(), self.width)
        short = int((rows[:, self.count - 1] < 0).sum())
        if short:
            raise ProbeError(
                f"the index {self.kind} found fewer than k = {self.count} neighbours for {short} of {len(rows)} "
                "queries; use a smaller k or the index flat"
            )
        similarity, index = torch.from_numpy(score), torch.from_numpy(rows)
        if self.space.metric == "euclidean":
            similarity = similarity.neg_()
        found = similarity.masked_fill_(index < 0, -math.inf), index
        # Codes are no vectors: where the index holds them, all of its similarities are rough.
        rough = torch.nonzero(index >= 0) if self.kind == "ivfpq" else near_ties(similarity, placed, self.space)
        closeness, index = rescore(self.bank, queries, self.space, found, rough)
        return closeness[:, : self.count], index[:, : self.count]


def build_search(
    kind: IndexKind, bank: Bank, space: Space, *, count: int, backend: Backend, leave_one_out: bool
) -> ApproximateSearch:
    """Train an index on a seeded sample of `bank` [N, D] and fill it block by block.

    Args:
        kind: `ivf` probes the nearest 1/16 of 4 sqrt(N) lists; `hnsw` follows a graph of 32 links a row; `ivfpq` is an
            `ivf` of one byte for every 8 dimensions, whose candidates, four times `count`, are compared again.
        bank: what is searched; its rows are read again for the candidates.
        space: of the metric.
        count: how many neighbours will be asked for.
        backend: as asked for by the user; only FAISS has indexes.
        leave_one_out: whether the bank's own rows are to be classified.

    Raises:
        ProbeError: FAISS is absent or was not asked for, the bank is too small or D does not suit the codes, or for
            leave-one-out, which needs the exact search.
    """
    if leave_one_out:
        raise ProbeError(f"leave-one-out needs the exact search; use the index flat instead of {kind}")
    if backend == "torch":
        raise ProbeError(f"the index {kind} is FAISS's; use the backend faiss, or the index flat")
    choose_engine("faiss")
    import faiss

    rows, width = bank.shape
    metric = faiss.METRIC_INNER_PRODUCT if space.metric == "cosine" else faiss.METRIC_L2
    candidates = min(rows, 4 * count if kind == "ivfpq" else count + _SPARE)
    if kind == "hnsw":
        index: Any = faiss.index_factory(width, f"HNSW{_LINKS},Flat", metric)
        index.hnsw.efSearch = 2 * candidates
        notes: tuple[str, ...] = ()
    else:
        lists, notes = _number_of_lists(kind, rows)
        content = f"PQ{_bytes_per_row(width)}" if kind == "ivfpq" else "Flat"
        index = faiss.index_factory(width, f"IVF{lists},{content}", metric)
        enough = math.ceil(_ROWS_PER_CANDIDATE * candidates * lists / rows)
        index.nprobe = min(lists, max(8, lists // 16, enough))
        index.cp.seed = _SEED
        if kind == "ivfpq":
            index.pq.cp.seed = _SEED
            index.pq.cp.max_points_per_centroid = _ROWS_PER_CENTROID
        index.train(_sample(bank, space, _ROWS_PER_CENTROID * max(lists, _PQ_CENTROIDS * (kind == "ivfpq"))))
    for _, block in numbered_blocks(bank, rows_per_block(bank)):
        index.add(space.place(block).numpy())
    return ApproximateSearch(kind, bank, space, index, count, candidates, notes)


def _number_of_lists(kind: str, rows: int) -> tuple[int, tuple[str, ...]]:
    """Return how many lists a bank of `rows` rows gets, and a note if they are fewer than usual."""
    least = _ROWS_PER_CENTROID * (_PQ_CENTROIDS if kind == "ivfpq" else 1)
    if rows < least:
        raise ProbeError(f"a bank of {rows} rows is too small to train the index {kind}, which needs {least}; use flat")
    usual, lists = round(4 * math.sqrt(rows)), rows // _ROWS_PER_CENTROID
    if lists >= usual:
        return usual, ()
    return lists, (f"the index {kind} has {lists} lists instead of {usual}: {rows:,} rows train no more",)


def _bytes_per_row(width: int) -> int:
    """Return the largest divisor of `width` that leaves at least 8 dimensions to each byte of a code."""
    size = next(size for size in range(max(1, width // 8), 0, -1) if width % size == 0)
    if width > 16 * size:
        raise ProbeError(f"{width} dimensions cannot be cut into equal parts of 8 to 16 for the index ivfpq; use ivf")
    return size


def _sample(bank: Bank, space: Space, size: int) -> NDArray[np.float32]:
    """Return at most `size` placed rows of `bank`, drawn with a seed."""
    drawn = np.sort(np.random.default_rng(_SEED).permutation(bank.shape[0])[:size])
    placed = np.empty((len(drawn), bank.shape[1]), np.float32)
    step = rows_per_block(bank)
    for start in range(0, len(drawn), step):
        part = torch.from_numpy(bank.rows(drawn[start : start + step]))
        placed[start : start + step] = space.place(part).numpy()
    return placed

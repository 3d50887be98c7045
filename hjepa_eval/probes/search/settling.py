"""Settling: candidates of a float32 search, ordered by exact similarity and then by index, on any machine."""

from __future__ import annotations

import torch

from hjepa_eval.probes.search.bank import NEAR, PLACES, Bank, Space, numbered_blocks, rows_per_block
from hjepa_eval.probes.search.engines import Found, chunks

# Rows are numbered in this many bits of a key that also holds the similarity.
INDEX_BITS = 24
_LAST = (1 << INDEX_BITS) - 1
_EXACT_ELEMENTS = 1 << 22


def settle(bank: Bank, queries: torch.Tensor, space: Space, found: Found, count: int) -> Found:
    """Return the first `count` of the candidates `found` [Q, count + spare], near-ties in their exact order.

    Args:
        bank: rows [N, D].
        queries: float32 [Q, D], as they are given, not placed.
        space: of the metric.
        found: similarity, float32 falling, and index; nothing else in the bank is nearer but for rounding.
        count: how many to keep.
    """
    similarity, index = rescore(bank, queries, space, found, near_ties(found[0], space))
    if index.shape[1] < bank.shape[0]:
        # So many near-ties at the end that some were not even candidates: duplicates, or collapsed features.
        crowded = torch.nonzero(similarity[:, count - 1] - similarity[:, -1] <= NEAR[space.metric])[:, 0]
        if len(crowded):
            similarity[crowded, :count], index[crowded, :count] = _search_exact(bank, queries[crowded], space, count)
    return similarity[:, :count], index[:, :count]


def near_ties(similarity: torch.Tensor, space: Space) -> torch.Tensor:
    """Return the places [M, 2] of candidates, float32 [Q, K] falling, that are too close to a neighbour in the list."""
    close = similarity[:, :-1] - similarity[:, 1:] <= NEAR[space.metric]
    either = torch.zeros(similarity.shape, dtype=torch.bool)
    either[:, :-1] = close
    either[:, 1:] |= close
    return torch.nonzero(either)


def rescore(bank: Bank, queries: torch.Tensor, space: Space, found: Found, places: torch.Tensor) -> Found:
    """Return `found` [Q, K] in order, with float64 similarity that is exact at `places` [M, 2] (query, column)."""
    similarity, index = found[0].to(torch.float64), found[1]
    # In the order of the bank's rows, so that a bank on disk is read once from front to end.
    places = places[index[places[:, 0], places[:, 1]].argsort()]
    for row, column in (piece.unbind(1) for piece in chunks(places, 16 * bank.shape[1])):
        others = torch.from_numpy(bank.rows(index[row, column].numpy()))
        similarity[row, column] = space.exact(queries[row], others)
    return _in_order(similarity, index)


def _in_order(similarity: torch.Tensor, index: torch.Tensor) -> Found:
    """Return [Q, K] with every row ordered by falling similarity, then by rising index; few rows are not already."""
    step = similarity[:, 1:] - similarity[:, :-1]
    wrong = ((step > 0) | ((step == 0) & (index[:, 1:] < index[:, :-1]))).any(dim=1)
    by_index = index[wrong].sort(dim=1)
    ordered = similarity[wrong].gather(1, by_index.indices).sort(dim=1, descending=True, stable=True)
    similarity[wrong], index[wrong] = ordered.values, by_index.values.gather(1, ordered.indices)
    return similarity, index


def _search_exact(bank: Bank, queries: torch.Tensor, space: Space, count: int) -> Found:
    """Return float64 similarity and index [Q, count] by keys that join similarity and index, so that none are equal."""
    placed = space.place(queries, torch.float64)
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for first, block in numbered_blocks(bank, rows_per_block(bank, elements=_EXACT_ELEMENTS)):
        others = space.place(block, torch.float64)
        number = _LAST - torch.arange(first, first + len(block))
        keys = []
        for chunk, kept in zip(chunks(placed, 8 * len(block)), chunks(best, 8 * len(block)), strict=True):
            key = (space.exact_matrix(chunk, others) * 2.0**PLACES).to(torch.int64) * (_LAST + 1) + number
            joined = torch.cat([kept, key], dim=1)
            keys.append(joined.topk(min(count, joined.shape[1]), dim=1).values)
        best = torch.cat(keys)
    return (best >> INDEX_BITS).to(torch.float64) / 2.0**PLACES, _LAST - (best & _LAST)

"""Settling: candidates of a float32 search, ordered by exact similarity and then by index, on any machine."""

from __future__ import annotations

import torch

from hjepa_eval.probes.search.bank import Bank, Space, numbered_blocks, rows_per_block
from hjepa_eval.probes.search.engines import Found, chunks

_EXACT_ELEMENTS = 1 << 22


def settle(bank: Bank, queries: torch.Tensor, placed: torch.Tensor, space: Space, found: Found, count: int) -> Found:
    """Return the first `count` of the candidates `found` [Q, count + spare], near-ties in their exact order.

    Args:
        bank: rows [N, D].
        queries: float32 [Q, D], as they are given.
        placed: the same in `space`.
        space: of the metric.
        found: similarity, float32 falling, and index; nothing else in the bank is nearer but for rounding.
        count: how many to keep.

    Returns:
        Closeness float64 [Q, count], see `Space.exact`, and index.
    """
    closeness, index = rescore(bank, queries, space, found, near_ties(found[0], placed, space))
    if index.shape[1] < bank.shape[0]:
        # So many near-ties at the end that some were not even candidates: duplicates, or collapsed features.
        last = closeness[:, count - 1 : count]
        crowded = torch.nonzero(last - closeness[:, -1:] <= space.rounding(last, placed))[:, 0]
        if len(crowded):
            closeness[crowded, :count], index[crowded, :count] = _search_exact(bank, queries[crowded], space, count)
    return closeness[:, :count], index[:, :count]


def near_ties(similarity: torch.Tensor, placed: torch.Tensor, space: Space) -> torch.Tensor:
    """Return the positions [M, 2] of candidates, float32 [Q, K] falling, that are too close to a neighbour in the list.

    Args:
        similarity: of the candidates.
        placed: float32 [Q, D], the queries in `space`.
        space: of the metric.
    """
    nearer = similarity[:, :-1]
    close = nearer - similarity[:, 1:] <= space.rounding(nearer, placed)
    either = torch.zeros(similarity.shape, dtype=torch.bool)
    either[:, :-1] = close
    either[:, 1:] |= close
    return torch.nonzero(either)


def rescore(bank: Bank, queries: torch.Tensor, space: Space, found: Found, positions: torch.Tensor) -> Found:
    """Return `found` [Q, K] in order, with float64 closeness that is exact at `positions` [M, 2] (query, column)."""
    closeness, index = found[0].to(torch.float64), found[1]
    if space.metric == "cosine":
        closeness -= 1
    # In the order of the bank's rows, so that a bank on disk is read once from front to end.
    positions = positions[index[positions[:, 0], positions[:, 1]].argsort()]
    for row, column in (piece.unbind(1) for piece in chunks(positions, 16 * bank.shape[1])):
        others = torch.from_numpy(bank.rows(index[row, column].numpy()))
        closeness[row, column] = space.exact(queries[row], others)
    return _in_order(closeness, index)


def _in_order(closeness: torch.Tensor, index: torch.Tensor) -> Found:
    """Return [Q, K] with every row ordered by falling closeness, then by rising index; few rows are not already."""
    step = closeness[:, 1:] - closeness[:, :-1]
    wrong = ((step > 0) | ((step == 0) & (index[:, 1:] < index[:, :-1]))).any(dim=1)
    by_index = index[wrong].sort(dim=1)
    ordered = closeness[wrong].gather(1, by_index.indices).sort(dim=1, descending=True, stable=True)
    closeness[wrong], index[wrong] = ordered.values, by_index.values.gather(1, ordered.indices)
    return closeness, index


def _search_exact(bank: Bank, queries: torch.Tensor, space: Space, count: int) -> Found:
    """Return float64 closeness and index [Q, count] of all rows of `bank`, compared one pair at a time."""
    best = torch.empty(len(queries), 0, dtype=torch.float64)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    for first, block in numbered_blocks(bank, rows_per_block(bank, elements=_EXACT_ELEMENTS)):
        number = torch.arange(first, first + len(block))
        kept = []
        width = 8 * len(block)
        for chunk, old, old_index in zip(*(chunks(rows, width) for rows in (queries, best, index)), strict=True):
            joined = torch.cat([old, space.exact_matrix(chunk, block)], dim=1)
            numbers = torch.cat([old_index, number.expand(len(chunk), -1)], dim=1)
            kept.append(_first(joined, numbers, min(count, joined.shape[1])))
        best, index = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return _in_order(best, index)


def _first(closeness: torch.Tensor, index: torch.Tensor, count: int) -> Found:
    """Return the `count` closest of each row of [Q, N], in which equals stand by rising index, in the order given."""
    last = closeness.topk(count, dim=1).values[:, -1:]
    nearer, equal = closeness > last, closeness == last
    keep = nearer | (equal & (equal.cumsum(dim=1) <= count - nearer.sum(dim=1, keepdim=True)))
    return closeness[keep].view(-1, count), index[keep].view(-1, count)

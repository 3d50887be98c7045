"""Similarity of feature rows: quickly in float32, exactly in float64, and what counts as a tie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from hjepa_eval.probes.bank import Bank, numbered_blocks, rows_per_block

Metric = Literal["cosine", "euclidean"]

# Above the rounding of float32 products of unit vectors (3e-7) and of distances of order 1 (1e-6), below any difference
# that a vote could feel.
NEAR = {"cosine": 1e-6, "euclidean": 4e-6}
# Similarities equal to this many binary places are a tie; float64 sums differ by less, whatever their order.
PLACES = 36
_CENTRE_ROWS = 4096
_PART_ROWS = 4096
_NORM_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class Space:
    """Moves rows to where a dot product (cosine) or a distance of numbers of order 1 (Euclidean) compares them."""

    metric: Metric
    centre: torch.Tensor
    scale: float

    def place(self, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return `rows` [N, D] as unit vectors, or centred and scaled, computed in float64 where float32 would err."""
        if self.metric == "euclidean":
            moved = torch.empty(rows.shape, dtype=dtype)
            for part, out in zip(torch.split(rows, _PART_ROWS), torch.split(moved, _PART_ROWS), strict=True):
                out.copy_(torch.sub(part, self.centre).div_(self.scale))
            return moved
        if dtype == torch.float64:
            return _unit(rows)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        placed = torch.div(rows, norm)
        # Squares of 1e20 or 1e-25 leave the range of float32.
        beyond = torch.nonzero(~((norm > 1e-12) & (norm < 1e18)))[:, 0]
        if len(beyond):
            placed[beyond] = _unit(rows[beyond]).to(dtype)
        return placed

    def exact(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [M] of `rows` [M, D] with `others` [M, D], on the grid that defines a tie."""
        rows, others = self.place(rows, torch.float64), self.place(others, torch.float64)
        if self.metric == "euclidean":
            return _on_grid(rows.sub_(others).square_().sum(dim=1).neg_())
        return _on_grid(rows.mul_(others).sum(dim=1))

    def exact_matrix(self, placed: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [Q, N] of all pairs of rows, both placed in float64 already."""
        if self.metric == "cosine":
            return _on_grid(placed @ others.T)
        squares = placed.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
        return _on_grid((2 * placed @ others.T).sub_(squares).clamp_max_(0))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Return float64 unit vectors; zero vectors stay zero."""
    exact = rows.to(torch.float64)
    norm = exact.square().sum(dim=1, keepdim=True).sqrt()
    return exact / torch.where(norm > 0, norm, 1.0)


def _on_grid(similarity: torch.Tensor) -> torch.Tensor:
    return torch.round(similarity * 2.0**PLACES) / 2.0**PLACES


def make_space(bank: Bank, queries: Bank, metric: Metric) -> Space:
    """Return the space of `metric`; for distances, centring near the bank's mean keeps their float32 rounding small.

    The centre is the mean of rows spread over the bank and the scale a power of two, so that neither depends on how
    the bank is cut into blocks.
    """
    if metric == "cosine":
        return Space(metric, torch.zeros(1), 1.0)
    spread = np.linspace(0, bank.shape[0] - 1, min(bank.shape[0], _CENTRE_ROWS)).astype(np.int64)
    centre = torch.from_numpy(bank.rows(spread)).mean(dim=0, dtype=torch.float64)
    largest = 0.0
    for rows in (bank,) if queries is bank else (bank, queries):
        for _, block in numbered_blocks(rows, rows_per_block(rows, elements=_NORM_ELEMENTS)):
            norms = torch.linalg.vector_norm(torch.sub(block, centre), dim=1)
            largest = max(largest, float(norms.max()))
    return Space(metric, centre, 2.0 ** math.frexp(largest)[1])

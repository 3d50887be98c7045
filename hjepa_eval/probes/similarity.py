"""Similarity of feature rows: quickly in float32, exactly in float64, and what counts as a tie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Metric = Literal["cosine", "euclidean"]

# Above the rounding of float32 products of unit vectors (3e-7) and of distances of order 1 (1e-6), below any difference
# that a vote could feel.
NEAR = {"cosine": 1e-6, "euclidean": 4e-6}
# Similarities equal to this many binary places are a tie; float64 sums differ by less, whatever their order.
PLACES = 36


@dataclass(frozen=True)
class Space:
    """Moves rows to where a dot product (cosine) or a distance of numbers of order 1 (Euclidean) compares them."""

    metric: Metric
    centre: torch.Tensor
    scale: float

    def place(self, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return `rows` [N, D] as unit vectors, or centred and scaled, computed in float64 where float32 would err."""
        if self.metric == "euclidean":
            return ((rows.to(torch.float64) - self.centre) / self.scale).to(dtype)
        if dtype == torch.float32:
            quick = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            if bool(((quick > 1e-12) & (quick < 1e18)).all()):
                return torch.div(rows, quick)
        # Squares of 1e20 or 1e-25 leave the range of float32. Zero vectors stay zero.
        exact = rows.to(torch.float64)
        norm = exact.square().sum(dim=1, keepdim=True).sqrt()
        return (exact / torch.where(norm > 0, norm, 1.0)).to(dtype)

    def exact(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [M] of `rows` [M, D] with `others` [M, D], on the grid that defines a tie."""
        rows, others = self.place(rows, torch.float64), self.place(others, torch.float64)
        if self.metric == "euclidean":
            return _on_grid(rows.sub_(others).square_().sum(dim=1).neg_())
        return _on_grid(rows.mul_(others).sum(dim=1))

    def exact_matrix(self, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the float64 similarity [Q, N] of all pairs of `rows` [Q, D] and `others` [N, D]."""
        rows, others = self.place(rows, torch.float64), self.place(others, torch.float64)
        if self.metric == "cosine":
            return _on_grid(rows @ others.T)
        squares = rows.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
        return _on_grid((2 * rows @ others.T - squares).clamp_max(0))


def _on_grid(similarity: torch.Tensor) -> torch.Tensor:
    return torch.round(similarity * 2.0**PLACES) / 2.0**PLACES


def make_space(bank: torch.Tensor, queries: torch.Tensor, metric: Metric) -> Space:
    """Return the space of `metric`; for distances, centring on the bank's mean keeps their float32 rounding small."""
    if metric == "cosine":
        return Space(metric, torch.zeros(1), 1.0)
    centre = bank.mean(dim=0, dtype=torch.float64)
    norms = [torch.linalg.vector_norm(rows - centre, dim=1).max() for rows in (bank, queries)]
    return Space(metric, centre, float(max(norms)) or 1.0)

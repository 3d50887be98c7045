"""The energy transformer: a token goes down the gradient of one energy, step by step, instead of through blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEFAULT_STEP = 0.1


class EnergyNorm(nn.Module):
    """LayerNorm with one factor for all dimensions, so that it is the gradient of a convex function of the token."""

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        """Begin with factor 1 and no shift."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(()))
        self.delta = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, tokens: Tensor) -> Tensor:
        """Return normed tokens `[..., D]`."""
        centred = tokens - tokens.mean(dim=-1, keepdim=True)
        deviation = (centred.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()
        normed: Tensor = self.gamma * centred / deviation + self.delta
        return normed


class EnergyBlock(nn.Module):
    """A step x <- x - alpha dE/dg down the energy of the normed tokens g, over all tokens of an image together.

    E = - 1 / beta sum_{h, C} log sum_B exp(beta K_hB . Q_hC) - 1 / 2 sum_{B, m} relu(xi_m . g_B)^2

    The gradient is written out, so that no graph of it is kept; it is linear algebra that autograd goes back through.
    For small `alpha` the energy falls in every step, since dg/dx is positive semidefinite.

    Source: Energy Transformer (Hoover et al. 2023), equations 2 to 6. Deviation: a token is among its own keys, so that
        the energy exists where a single token is visible.
    """

    def __init__(self, dim: int, num_heads: int, *, memories: int, alpha: float = DEFAULT_STEP) -> None:
        """Build an energy of tokens of width `dim`.

        Args:
            dim: width `D`.
            num_heads: heads of the attention energy, each of width `D / num_heads`.
            memories: patterns `xi` of the Hopfield energy.
            alpha: length of a step.
        """
        super().__init__()
        self.num_heads, self.alpha = num_heads, alpha
        self.beta = (dim // num_heads) ** -0.5
        self.norm = EnergyNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.memory = nn.Linear(dim, memories, bias=False)
        for layer in (self.query, self.key, self.memory):
            nn.init.normal_(layer.weight, std=dim**-0.5)

    def energy(self, tokens: Tensor) -> Tensor:
        """Return `[B]`, the energy of all tokens `[B, T, D]` of an image."""
        return self.energy_of_normed(self.norm(tokens))

    def energy_of_normed(self, normed: Tensor) -> Tensor:
        """Return `[B]`, the energy of tokens `[B, T, D]` that were normed."""
        query, key = self._heads(self.query(normed)), self._heads(self.key(normed))
        scores = self.beta * query @ key.transpose(-2, -1)
        attention = -scores.logsumexp(dim=-1).sum(dim=(1, 2)) / self.beta
        energy: Tensor = attention - self.memory(normed).relu().square().sum(dim=(1, 2)) / 2
        return energy

    def gradient(self, normed: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return dE/dg `[B, T, D]` of normed tokens; tokens that a mask hides from all take no part in the energy.

        Args:
            normed: `[B, T, D]`.
            attn_mask: float, broadcast to `[B, heads, T, T]`: 0, or minus infinity where a key is hidden.
        """
        query, key = self._heads(self.query(normed)), self._heads(self.key(normed))
        scores = self.beta * query @ key.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores + attn_mask.to(scores.dtype)
        weights = scores.softmax(dim=-1)
        by_query = self._joined(weights @ key) @ self.query.weight
        if attn_mask is not None and attn_mask.shape[-2] == 1:
            # What nobody sees asks nobody: its query must not move the tokens that are seen.
            weights = weights * (attn_mask.transpose(-2, -1) == 0)
        by_key = self._joined(weights.transpose(-2, -1) @ query) @ self.key.weight
        slope: Tensor = by_query + by_key + self.memory(normed).relu() @ self.memory.weight
        return -slope

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return the tokens `[B, T, D]` after a step."""
        return tokens - self.alpha * self.gradient(self.norm(tokens), attn_mask)

    def _heads(self, tokens: Tensor) -> Tensor:
        """Return `[B, heads, T, D / heads]`."""
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _joined(self, heads: Tensor) -> Tensor:
        """Return `[B, T, D]` of `[B, heads, T, D / heads]`."""
        return heads.transpose(1, 2).flatten(2)


class SameStep(nn.Module):
    """One more step down the energy of a block that stands before it; it has no weights of its own."""

    def __init__(self, block: EnergyBlock) -> None:
        """Refer to `block`, whose weights are counted where it stands."""
        super().__init__()
        self._block = (block,)  # In a tuple, torch does not register it a second time.

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return the tokens `[B, T, D]` after a step."""
        after: Tensor = self._block[0](tokens, attn_mask)
        return after


def energy_steps(dim: int, num_heads: int, *, steps: int, alpha: float) -> nn.Sequential:
    """Return so many steps down one energy, to stand where a ViT has its blocks; memories are four times the width."""
    block = EnergyBlock(dim, num_heads, memories=4 * dim, alpha=alpha)
    return nn.Sequential(block, *(SameStep(block) for _ in range(steps - 1)))

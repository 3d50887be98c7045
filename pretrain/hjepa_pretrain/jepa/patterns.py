"""Encoders and a predictor made of others: two scales of one state, two kinds of data, coarse before fine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hjepa_eval.errors import ConfigError, TrainingError
from hjepa_pretrain.jepa.saved import BaseModel


def _as_tokens(features: Tensor) -> Tensor:
    """Return `[B, T, D]` of vectors `[B, D]` or tokens `[B, T, D]`."""
    return features.unsqueeze(1) if features.ndim == 2 else features


class MultiScaleEncoder(BaseModel):
    """What a local and a global encoder say of the same state, fused into one vector."""

    def __init__(
        self, local_encoder: nn.Module, global_encoder: nn.Module, *, local_dim: int, global_dim: int, hidden_dim: int
    ) -> None:
        """Join two encoders of widths `local_dim` and `global_dim` by a small MLP to `hidden_dim`."""
        super().__init__(
            local_encoder=local_encoder,
            global_encoder=global_encoder,
            local_dim=local_dim,
            global_dim=global_dim,
            hidden_dim=hidden_dim,
        )
        self.local_encoder, self.global_encoder = local_encoder, global_encoder
        self.fusion = nn.Sequential(
            nn.LayerNorm(local_dim + global_dim),
            nn.Linear(local_dim + global_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
        )

    def forward(self, state: Tensor) -> Tensor:
        """Return `[B, hidden_dim]`; tokens `[B, T, D]` of an encoder count as their mean."""
        local, whole = (_as_tokens(encoder(state)).mean(dim=1) for encoder in (self.local_encoder, self.global_encoder))
        fused: Tensor = self.fusion(torch.cat((local, whole), dim=1))
        return fused


class HierarchicalPredictor(BaseModel):
    """A coarse answer first, then a fine one that knows it."""

    def __init__(self, hidden_dim: int, *, coarse_dim: int | None = None) -> None:
        """Build MLPs of width `hidden_dim` through a coarse answer of `coarse_dim`, a quarter of it when not given."""
        super().__init__(hidden_dim=hidden_dim, coarse_dim=coarse_dim)
        narrow = coarse_dim or max(1, hidden_dim // 4)
        self.coarse_predictor = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, narrow)
        )
        self.fine_predictor = nn.Sequential(
            nn.Linear(hidden_dim + narrow, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim)
        )

    def forward(self, context: Tensor) -> Tensor:
        """Return the fine answer, in the shape of `context` `[..., hidden_dim]`."""
        coarse = self.coarse_predictor(context)
        fine: Tensor = self.fine_predictor(torch.cat((context, coarse), dim=-1))
        return fine


class CrossModalEncoder(BaseModel):
    """Vision that asks text: vision tokens attend to text tokens, and both means are fused."""

    def __init__(
        self, vision_encoder: nn.Module, text_encoder: nn.Module, *, hidden_dim: int, num_heads: int = 4
    ) -> None:
        """Join two encoders that both say vectors of width `hidden_dim`.

        Raises:
            ConfigError: heads do not divide the width.
        """
        super().__init__(
            vision_encoder=vision_encoder, text_encoder=text_encoder, hidden_dim=hidden_dim, num_heads=num_heads
        )
        if hidden_dim % num_heads:
            raise ConfigError(f"num_heads {num_heads} does not divide hidden_dim {hidden_dim}")
        self.vision_encoder, self.text_encoder = vision_encoder, text_encoder
        self.cross_attention = nn.MultiheadAttention(hidden_dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = nn.Linear(2 * hidden_dim, hidden_dim)

    def forward(self, vision_input: Tensor, text_input: Tensor) -> Tensor:
        """Return `[B, hidden_dim]`.

        Raises:
            TrainingError: there is not one text for every image.
        """
        vision = _as_tokens(self.vision_encoder(vision_input))
        text = _as_tokens(self.text_encoder(text_input))
        if len(vision) != len(text):
            raise TrainingError(f"{len(vision)} images and {len(text)} texts; give one text for every image")
        asked, _ = self.cross_attention(vision, text, text, need_weights=False)
        seen = self.norm(vision + asked).mean(dim=1)
        fused: Tensor = self.out(torch.cat((seen, text.mean(dim=1)), dim=1))
        return fused

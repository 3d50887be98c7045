"""Predictors to begin with: an MLP, attention over the sequence, a recurrence along it; batch first, shape kept."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hjepa_eval.errors import ConfigError, TrainingError
from hjepa_pretrain.jepa.encoders import sequence_positions
from hjepa_pretrain.jepa.saved import BaseModel


class Predictor(BaseModel):
    """An MLP with a residual, of vectors or tokens alike; an action is read beside them."""

    def __init__(self, hidden_dim: int, *, action_dim: int = 0, depth: int = 2) -> None:
        """Build `depth` hidden layers of twice the width `hidden_dim`, which also read an action of `action_dim`."""
        super().__init__(hidden_dim=hidden_dim, action_dim=action_dim, depth=depth)
        self.action_dim = action_dim
        layers: list[nn.Module] = [nn.LayerNorm(hidden_dim + action_dim)]
        width = hidden_dim + action_dim
        for _ in range(depth):
            layers += [nn.Linear(width, 2 * hidden_dim), nn.GELU()]
            width = 2 * hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, hidden_dim))

    def forward(self, context: Tensor, action: Tensor | None = None) -> Tensor:
        """Return answers in the shape of `context` `[B, D]` or `[B, T, D]`; `action` is `[B, action_dim]`.

        Raises:
            TrainingError: an action is missing, or not expected.
        """
        told = 0 if action is None else action.shape[-1]
        if told != self.action_dim:
            raise TrainingError(f"the Predictor reads actions of {self.action_dim} numbers; found {told}")
        seen = context
        if action is not None:
            beside = action if context.ndim == 2 else action.unsqueeze(1).expand(-1, context.shape[1], -1)
            seen = torch.cat((context, beside.to(context.dtype)), dim=-1)
        answer: Tensor = context + self.layers(seen)
        return answer


class AttentionPredictor(BaseModel):
    """Transformer blocks over the tokens of each example; a vector `[B, D]` is a sequence of one."""

    def __init__(self, hidden_dim: int, *, depth: int = 2, num_heads: int = 4) -> None:
        """Build `depth` blocks of width `hidden_dim`.

        Raises:
            ConfigError: heads do not divide the width.
        """
        super().__init__(hidden_dim=hidden_dim, depth=depth, num_heads=num_heads)
        if hidden_dim % num_heads:
            raise ConfigError(f"num_heads {num_heads} does not divide hidden_dim {hidden_dim}")
        self.blocks = nn.ModuleList(Block(hidden_dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, context: Tensor) -> Tensor:
        """Return answers in the shape of `context` `[B, D]` or `[B, T, D]`; examples never see each other."""
        tokens = context.unsqueeze(1) if context.ndim == 2 else context
        tokens = tokens + sequence_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        for block in self.blocks:
            tokens = block(tokens)
        answers: Tensor = self.out(self.norm(tokens))
        return answers.squeeze(1) if context.ndim == 2 else answers


class RecurrentPredictor(BaseModel):
    """A GRU along the tokens: the answer at a token knows those before it alone."""

    def __init__(self, hidden_dim: int, *, depth: int = 1) -> None:
        """Build `depth` layers of width `hidden_dim`."""
        super().__init__(hidden_dim=hidden_dim, depth=depth)
        self.gru = nn.GRU(hidden_dim, hidden_dim, num_layers=depth, batch_first=True)
        self.out = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, context: Tensor) -> Tensor:
        """Return answers in the shape of `context` `[B, D]` or `[B, T, D]`."""
        tokens = context.unsqueeze(1) if context.ndim == 2 else context
        said, _ = self.gru(tokens)
        answers: Tensor = self.out(said)
        return answers.squeeze(1) if context.ndim == 2 else answers

"""Encoders to begin with, batch first: a transformer of sequences, a convolution of images, an MLP of rows."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hjepa_eval.errors import ConfigError, TrainingError, unknown
from hjepa_pretrain.jepa.saved import BaseModel

Pooling = Literal["mean", "last", "none"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
_BASE = 10_000.0


def pool(tokens: Tensor, pooling: str) -> Tensor:
    """Return `[B, D]` of tokens `[B, T, D]`: their mean, or the last of them; `none` leaves them as they are."""
    if pooling == "none":
        return tokens
    return tokens.mean(dim=1) if pooling == "mean" else tokens[:, -1]


def sequence_positions(length: int, dim: int, device: torch.device) -> Tensor:
    """Return `[length, dim]`, sines and cosines of the place.

    Source: Vaswani et al. 2017, section 3.5.
    """
    place = torch.arange(length, device=device).unsqueeze(1)
    frequency = _BASE ** (-torch.arange(0, dim, 2, device=device) / dim)
    angles = place * frequency
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :dim]


class Encoder(BaseModel):
    """A transformer of sequences: vectors `[B, T, input_dim]`, or token numbers `[B, T]` with a `vocab_size`."""

    def __init__(
        self,
        hidden_dim: int,
        *,
        input_dim: int | None = None,
        vocab_size: int | None = None,
        depth: int = 2,
        num_heads: int = 4,
        pooling: Pooling = "mean",
    ) -> None:
        """Build `depth` blocks of width `hidden_dim`.

        Args:
            hidden_dim: width of what it says.
            input_dim: width of the vectors it reads; `hidden_dim` when not given.
            vocab_size: how many tokens there are, when it reads numbers.
            depth: transformer blocks.
            num_heads: attention heads; they divide `hidden_dim`.
            pooling: over the sequence: `mean`, `last`, or `none` for `[B, T, hidden_dim]`.

        Raises:
            ConfigError: heads do not divide the width, or both kinds of input are given.
            UnknownNameError: there is no such pooling.
        """
        super().__init__(
            hidden_dim=hidden_dim,
            input_dim=input_dim,
            vocab_size=vocab_size,
            depth=depth,
            num_heads=num_heads,
            pooling=pooling,
        )
        if hidden_dim % num_heads:
            raise ConfigError(f"num_heads {num_heads} does not divide hidden_dim {hidden_dim}")
        if input_dim is not None and vocab_size is not None:
            raise ConfigError("an Encoder reads vectors (input_dim) or numbers (vocab_size); give one of them")
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        self.width, self.vocab_size, self.pooling = input_dim or hidden_dim, vocab_size, pooling
        self.embed: nn.Module = (
            nn.Embedding(vocab_size, hidden_dim) if vocab_size else nn.Linear(self.width, hidden_dim)
        )
        self.blocks = nn.ModuleList(Block(hidden_dim, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, states: Tensor) -> Tensor:
        """Return `[B, hidden_dim]`, or `[B, T, hidden_dim]` without pooling; a vector `[B, D]` is a sequence of one.

        Raises:
            TrainingError: the states have another shape.
        """
        numbers = self.vocab_size is not None
        if not numbers and states.ndim == 2:
            states = states.unsqueeze(1)
        if states.ndim != (2 if numbers else 3) or not (numbers or states.shape[-1] == self.width):
            expected = "token numbers [B, T]" if numbers else f"vectors [B, T, {self.width}], batch first"
            raise TrainingError(f"the Encoder takes {expected}; found {list(states.shape)}")
        tokens = self.embed(states)
        tokens = tokens + sequence_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        for block in self.blocks:
            tokens = block(tokens)
        return pool(self.norm(tokens), self.pooling)


class CNNEncoder(BaseModel):
    """Convolutions of images `[B, input_channels, H, W]` of any size, and the mean over what is left of the grid."""

    def __init__(self, input_channels: int, hidden_dim: int, *, channels: tuple[int, ...] = (32, 64, 128)) -> None:
        """Build one convolution of stride 2 for each of `channels`, and a linear map to `hidden_dim`."""
        super().__init__(input_channels=input_channels, hidden_dim=hidden_dim, channels=list(channels))
        self.input_channels = input_channels
        layers: list[nn.Module] = []
        for before, after in zip((input_channels, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1], hidden_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return `[B, hidden_dim]`.

        Raises:
            TrainingError: these are no such images.
        """
        if images.ndim != 4 or images.shape[1] != self.input_channels:
            raise TrainingError(
                f"the CNNEncoder takes images [B, {self.input_channels}, H, W]; found {list(images.shape)}"
            )
        vectors: Tensor = self.out(self.layers(images).mean(dim=(2, 3)))
        return vectors


class MLPEncoder(BaseModel):
    """An MLP of rows `[B, input_dim]`; what has more dimensions is flattened."""

    def __init__(self, input_dim: int, hidden_dim: int, *, depth: int = 2) -> None:
        """Build `depth` layers of width `hidden_dim`."""
        super().__init__(input_dim=input_dim, hidden_dim=hidden_dim, depth=depth)
        self.input_dim = input_dim
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(input_dim if number == 0 else hidden_dim, hidden_dim), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1], nn.LayerNorm(hidden_dim))

    def forward(self, states: Tensor) -> Tensor:
        """Return `[B, hidden_dim]`.

        Raises:
            TrainingError: rows have another width.
        """
        flat = states.flatten(1)
        if flat.shape[1] != self.input_dim:
            raise TrainingError(f"the MLPEncoder takes rows of {self.input_dim} numbers; found {list(states.shape)}")
        vectors: Tensor = self.layers(flat)
        return vectors

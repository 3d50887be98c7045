"""Rotary positions in two dimensions for timm ViTs: queries and keys turn by where their token lies."""

from __future__ import annotations

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

_BASE = 100.0


class Rotation(nn.Module):
    """Turns pairs of a head's dimensions by angles that grow with row (first half) and column (second half).

    Stands where timm's attention normalises queries and keys, so the network keeps its names and weights.

    Source: RoPE-ViT (Heo et al. 2024), axial frequencies with base 100.

    Attributes:
        places: int64 `[B, N]`, prefix tokens counted, of the tokens that come next; None for all in order.
    """

    def __init__(self, grid: tuple[int, int], head_dim: int, prefix: int) -> None:
        """Prepare the angles of all tokens on `grid`; `prefix` tokens before them do not turn."""
        super().__init__()
        rows, columns = grid
        count = head_dim // 4
        frequencies = _BASE ** (-torch.arange(count) / count)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        angles = torch.cat(
            [(place.flatten().unsqueeze(-1) * frequencies) for place in (row, column)], dim=-1
        ).repeat_interleave(2, dim=-1)
        angles = torch.cat((torch.zeros(prefix, head_dim), angles))
        self.register_buffer("sine", angles.sin(), persistent=False)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.places: Tensor | None = None

    def forward(self, vectors: Tensor) -> Tensor:
        """Return queries or keys `[B, heads, N, head_dim]`, turned, in their own dtype."""
        sine, cosine = self.get_buffer("sine"), self.get_buffer("cosine")
        if self.places is not None:
            sine, cosine = sine[self.places].unsqueeze(1), cosine[self.places].unsqueeze(1)
        wide = vectors.float()
        turned = torch.stack((-wide[..., 1::2], wide[..., ::2]), dim=-1).flatten(-2)
        return (wide * cosine + turned * sine).to(vectors.dtype)


def use_rotary_positions(model: VisionTransformer) -> None:
    """Let every attention of a ViT turn its queries and keys; one `Rotation` serves all blocks.

    Raises:
        ValueError: the head size is no multiple of 4.
    """
    head_dim: int = model.blocks[0].attn.head_dim
    if head_dim % 4:
        raise ValueError(f"rotary positions need heads of a multiple of 4 dimensions, found {head_dim}")
    rotation = Rotation(model.patch_embed.grid_size, head_dim, model.num_prefix_tokens)
    for block in model.blocks:
        block.attn.q_norm = block.attn.k_norm = rotation


def rotation_of(model: VisionTransformer) -> Rotation | None:
    """Return the `Rotation` of a ViT with rotary positions, or None."""
    found = model.blocks[0].attn.q_norm
    return found if isinstance(found, Rotation) else None

"""timm vision transformers by name, with any patch and image size, rotary positions, and their levels' geometry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from hjepa_eval.encoders.networks.energy import DEFAULT_STEP, energy_steps
from hjepa_eval.encoders.protocol import Level
from hjepa_eval.errors import EncoderError, unknown

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
    found = getattr(getattr(model.blocks[0], "attn", None), "q_norm", None)
    return found if isinstance(found, Rotation) else None


Taps = Literal["depth", "final"] | Sequence[int]
Positions = Literal["learned", "sincos", "rope"]

_NAME = re.compile(r"^(?P<size>vit_[a-z0-9]+)_patch(?P<patch>\d+)_(?P<image>\d+)$")


def is_energy(name: str) -> bool:
    """Tell whether a name such as `energy_tiny_patch4_32` means an energy transformer of a ViT's size."""
    return name == "energy" or name.startswith("energy_")


# What timm calls plain ViTs; those of DeiT with a distillation token have a network of their own.
_PLAIN = re.compile(r"vit_|deit3?_(?!.*distilled)")


def is_plain(name: str) -> bool:
    """Tell whether a name is asked for as a plain ViT."""
    return bool(_PLAIN.match(name))


def vit_arguments(name: str) -> tuple[str, dict[str, int]]:
    """Return the timm model and the arguments that a ViT name means.

    `vit_tiny_patch4_32` is timm's ViT of that size with patches of 4 and images of 32 pixels, whether or not timm
    lists that name itself. `energy_tiny_patch4_32` has the sizes of that ViT, and `energy` those of the small one.

    Raises:
        UnknownNameError: neither timm nor the grammar `vit_SIZE_patchP_IMAGE` knows the name.
    """
    if is_energy(name):
        name = "vit_small_patch16_224" if name == "energy" else f"vit{name.removeprefix('energy')}"
    known = timm.list_models("vit_*")
    if name in known or (is_plain(name) and name in timm.list_models("deit*")):
        return name, {}
    parsed = _NAME.match(name)
    if parsed is None:
        raise unknown("ViT", name, known)
    relatives = [model for model in known if model.startswith(f"{parsed['size']}_patch")]
    standard = [model for model in relatives if re.fullmatch(rf"{parsed['size']}_patch\d+_\d+", model)]
    if not standard:
        sizes = sorted({match["size"] for model in known if (match := _NAME.match(model))})
        raise unknown("ViT size", parsed["size"], sizes)
    patch, image = int(parsed["patch"]), int(parsed["image"])
    if image % patch:
        raise EncoderError(f"{name}: the patch size {patch} does not divide the image size {image}")
    preferred = f"{parsed['size']}_patch16_224"
    base = preferred if preferred in standard else standard[0]
    return base, {"patch_size": patch, "img_size": image}


def create_vit(name: str, *, seed: int = 0, positions: Positions = "learned", **overrides: Any) -> VisionTransformer:
    """Return an untrained timm ViT without a classifier; the same seed gives the same weights.

    Args:
        name: a timm name, or `vit_SIZE_patchP_IMAGE`.
        seed: of the initial weights; the global generator is left as it was.
        positions: `learned` is timm's own initialisation; `sincos` is fixed 2-D sine-cosine, as in I-JEPA and MAE;
            `rope` turns queries and keys instead of adding to tokens.
        **overrides: passed on to timm, such as `img_size`, `depth`, `drop_path_rate` or `class_token`; of an energy
            transformer `depth` is the number of steps and `energy_step` their length.

    Raises:
        UnknownNameError: there is no such ViT.
        EncoderError: timm builds something else than a `VisionTransformer` for it.
    """
    base, arguments = vit_arguments(name)
    if positions == "rope":
        if is_energy(name):
            raise EncoderError("an energy transformer has no rotary positions; choose sincos or learned")
        overrides = {**overrides, "pos_embed": "none"}
    step = overrides.pop("energy_step", DEFAULT_STEP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(base, pretrained=False, num_classes=0, **{**arguments, **overrides})
        if is_energy(name) and isinstance(model, VisionTransformer):
            heads = model.blocks[0].attn.num_heads
            model.blocks = energy_steps(model.embed_dim, heads, steps=len(model.blocks), alpha=step)
    if not isinstance(model, VisionTransformer):
        raise EncoderError(
            f"{name} is not a plain ViT but {type(model).__name__}; choose one such as vit_small_patch16_224"
        )
    if positions == "sincos":
        fix_sincos_positions(model)
    if positions == "rope":
        use_rotary_positions(model)
    return model


def fix_sincos_positions(model: VisionTransformer) -> None:
    """Replace a ViT's position embedding by fixed 2-D sine-cosine positions; prefix tokens get zeros.

    Source: MAE, `util/pos_embed.py`; I-JEPA, section A.1.
    """
    rows, columns = model.patch_embed.grid_size
    table = build_sincos2d_pos_embed([rows, columns], dim=model.embed_dim)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, model.pos_embed.shape[1] - rows * columns :] = table
    model.pos_embed.requires_grad_(False)


def spread_taps(depth: int, num_levels: int) -> tuple[int, ...]:
    """Return the block after which each level reads, counted from 1, spread evenly: 12 blocks, 3 levels: 4, 8, 12.

    Raises:
        EncoderError: there are more levels than blocks.
    """
    if not 1 <= num_levels <= depth:
        raise EncoderError(f"{num_levels} levels do not fit an encoder of {depth} blocks; ask for 1 to {depth}")
    return tuple(round(depth * (level + 1) / num_levels) for level in range(num_levels))


def resolve_taps(taps: Taps, depth: int, num_levels: int) -> tuple[int, ...]:
    """Return one block number (from 1) per level for `depth`, `final` or an explicit list.

    Raises:
        EncoderError: the list has another length than the levels, falls, or goes beyond the depth.
    """
    if taps == "depth":
        return spread_taps(depth, num_levels)
    if taps == "final":
        return (depth,) * num_levels
    blocks = tuple(int(tap) for tap in taps)
    if len(blocks) != num_levels:
        raise EncoderError(
            f"taps {list(blocks)} are {len(blocks)}, the levels are {num_levels}; give one block per level"
        )
    if any(not 1 <= block <= depth for block in blocks) or list(blocks) != sorted(blocks):
        raise EncoderError(f"taps {list(blocks)} must rise and lie between 1 and the encoder's {depth} blocks")
    return blocks


def cells(grid: tuple[int, int], level: int) -> tuple[int, int]:
    """Return rows and columns of a level's cells, 2^level x 2^level tokens each, ceil mode: 14 -> 7 -> 4 -> 2."""
    size = 2**level
    return -(-grid[0] // size), -(-grid[1] // size)


def check_levels(grid: tuple[int, int], num_levels: int) -> None:
    """Check that every level is coarser than the one before.

    Raises:
        EncoderError: the grid has been one cell already; the message says how many levels fit.
    """
    most = 1
    while cells(grid, most) != cells(grid, most - 1):
        most += 1
    if num_levels > most:
        raise EncoderError(f"{num_levels} levels do not fit a grid of {grid[0]}x{grid[1]} tokens; at most {most} do")


def pool_cells(tokens: Tensor, grid: tuple[int, int], level: int) -> Tensor:
    """Return the means `[B, cells, D]` of 2^level x 2^level neighbours of the tokens `[B, rows * columns, D]`.

    Cells at the lower and right border hold fewer tokens when the grid does not divide; padding is not counted.
    """
    if level == 0:
        return tokens
    batch, _, dim = tokens.shape
    image = tokens.transpose(1, 2).reshape(batch, dim, *grid)
    pooled = F.avg_pool2d(image, 2**level, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).transpose(1, 2)


def name_tokens(*, classes: Sequence[str], prefix: int) -> tuple[str, ...]:
    """Return the names of a ViT's `prefix` tokens: `classes` first, then registers."""
    return (*classes, *(f"register {number}" for number in range(1, prefix - len(classes) + 1)))


def vit_levels(dim: int, grid: tuple[int, int], taps: Sequence[int], prefix: int) -> tuple[Level, ...]:
    """Return the levels of a ViT: level l reads block `taps[l]` and pools 2^l x 2^l cells."""
    check_levels(grid, len(taps))
    return tuple(
        Level(index, f"block {tap}, {2**index}x{2**index} cells", dim, cells(grid, index), prefix)
        for index, tap in enumerate(taps)
    )

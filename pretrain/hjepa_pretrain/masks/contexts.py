"""From target blocks and a context block to masks that share no token and leave enough to see."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.masks.blocks import check_keep
from hjepa_pretrain.masks.indices import Masks, listed, pick


def separate(box: Tensor, targets: Tensor, *, keep: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return context `[B, N]` and targets `[B, M, N]` without a shared token, True = use.

    Args:
        box: bool `[B, N]`, the context block.
        targets: bool `[B, M, N]`, the target blocks.
        keep: context tokens of every image at least; tokens outside the context block are added first, then tokens
            are taken from the targets.
        generator: draws which ones.
    """
    free = ~targets.any(dim=1)
    context = (box & free) | _preferred(box, free, keep, generator)
    return context, targets & ~context.unsqueeze(1)


def fixed_masks(
    box: Tensor,
    union: Tensor,
    *,
    context_tokens: int,
    target_tokens: int,
    seed: int,
    step: int,
    level: Tensor | None = None,
) -> Masks:
    """Return masks with `context_tokens` random tokens of each context, and no padding there.

    Where the block `box` `[B, N]` without the targets' `union` `[B, N]` holds fewer, tokens are added as in
    `separate`. Targets are the union, or a random `target_tokens` of it, padded where it holds fewer.

    Raises:
        ConfigError: the counts leave nothing to see or to predict.
    """
    num_patches = box.shape[1]
    check_keep("context_tokens", context_tokens, num_patches)
    if not 1 <= target_tokens <= num_patches:
        raise ConfigError(f"target_tokens {target_tokens} must lie between 1 and {num_patches}, the number of tokens")
    generator = seeded_generator(seed, step, "tokens", box.device)
    seen = _preferred(box, ~union, context_tokens, generator)
    context, _ = listed(seen, context_tokens)
    flags = union & ~seen
    # When all of them fit, none has to be drawn.
    drawn = generator if target_tokens < num_patches - context_tokens else None
    targets, valid = pick(flags, target_tokens, generator=drawn)
    return Masks(context, targets, valid, flags, level=level)


def _preferred(box: Tensor, free: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return bool `[B, N]`, `count` random tokens: free ones of the box before other free ones before the rest."""
    rank = torch.rand(box.shape, generator=generator, device=box.device)
    chosen = (rank + free + (free & box)).topk(count, dim=1, sorted=False).indices
    return torch.zeros_like(free).scatter_(1, chosen, True)

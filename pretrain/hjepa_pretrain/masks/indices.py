"""Masks as index tensors with names: `context` tokens are seen, `targets` are predicted; padding is marked as such.

Target blocks and a context block become masks that share no token and leave enough to see. The source documents use two
conventions: `[B, N]` with 1 = masked, and boolean masks with True = use. Both have a converter here with a name that
says which one it reads; nothing guesses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.encoders.vit import pool_cells
from hjepa_eval.errors import ConfigError, TrainingError
from hjepa_pretrain.masks.blocks import check_keep


@dataclass(frozen=True)
class Masks:
    """Context and targets of a batch, as token numbers in raster order without prefix tokens.

    Attributes:
        context: int64 `[B, K]`, tokens that the context encoder sees.
        targets: int64 `[B, T]`, tokens to predict at level 0.
        targets_valid: bool `[B, T]`; False is padding.
        target_flags: bool `[B, N]`; True where a token belongs to a target block, listed in `targets` or not.
        context_valid: bool `[B, K]`, or None when no context is padded.
        level: int64 `[B]`, the one level that each image is masked for, or None when its masks serve all levels.
    """

    context: Tensor
    targets: Tensor
    targets_valid: Tensor
    target_flags: Tensor
    context_valid: Tensor | None = None
    level: Tensor | None = None

    def first(self, count: int) -> Masks:
        """Return the masks of the first `count` images."""
        if count == len(self.context):
            return self
        return Masks(
            self.context[:count],
            self.targets[:count],
            self.targets_valid[:count],
            self.target_flags[:count],
            None if self.context_valid is None else self.context_valid[:count],
            None if self.level is None else self.level[:count],
        )

    def valid(self, grid: tuple[int, int], level: int, *, coverage: float = 0.5) -> Tensor:
        """Return bool `[B, T_l]`: which of a level's targets count in the loss.

        At level 0 these are the listed `targets` that are no padding, at a coarser one all cells of the grid that are
        hidden to at least `coverage`; in either case only of images that are masked for that level.
        """
        valid = self.targets_valid if level == 0 else self.cells_valid(grid, level, coverage=coverage)
        return valid if self.level is None else valid & (self.level == level).unsqueeze(1)

    def cells_valid(self, grid: tuple[int, int], level: int, *, coverage: float = 0.5) -> Tensor:
        """Return bool `[B, cells]`: True where at least `coverage` of a cell's tokens are targets."""
        share = pool_cells(self.target_flags.float().unsqueeze(-1), grid, level).squeeze(-1)
        return share >= coverage - 1e-6


def pick(flags: Tensor, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return `count` flagged token numbers per row `[B, count]` in raster order, and which of them are valid.

    Args:
        flags: bool `[B, N]`.
        count: of the slots; rows with fewer flags are padded with the number 0 and marked, of rows with more a
            random subset is taken.
        generator: draws the subset; without it the first ones are taken.
    """
    if generator is not None:
        score = torch.rand(flags.shape, generator=generator, device=flags.device) + flags
        chosen = score.topk(count, dim=1, sorted=False).indices
        flags = flags & torch.zeros_like(flags).scatter_(1, chosen, True)
    return listed(flags, count)


def listed(flags: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` flagged token numbers per row `[B, count]`, and which of them are valid.

    A running count says where each number goes, at a twentieth of the time of sorting.
    """
    batch, num_patches = flags.shape
    place = flags.cumsum(dim=1)
    # Place 0 takes what is not listed and is cut off; padding is token 0: what stands there must never matter.
    place = torch.where(flags & (place <= count), place, 0)
    numbers = torch.arange(num_patches, device=flags.device).expand(batch, -1)
    indices = torch.zeros(batch, count + 1, dtype=torch.int64, device=flags.device).scatter_(1, place, numbers)
    valid = torch.arange(count, device=flags.device) < flags.sum(dim=1, keepdim=True)
    return indices[:, 1:], valid


def masks_from_masked(mask: Tensor) -> Masks:
    """Return the masks that a number tensor `[B, N]` spells with 1 = masked (target) and 0 = visible (context).

    Raises:
        TrainingError: `mask` is boolean (True could mean "use"), holds other values than 0 and 1, or leaves an
            image without context or without targets.
    """
    if mask.dtype == torch.bool:
        raise TrainingError(
            "a boolean mask is ambiguous: for 1 = masked pass numbers (mask.float()); for True = use convert it with "
            "masks_from_used(context_mask, target_masks)"
        )
    if mask.ndim != 2 or not bool(((mask == 0) | (mask == 1)).all()):
        raise TrainingError(f"expected a mask [B, N] of zeros and ones (1 = masked), found shape {list(mask.shape)}")
    masked = mask == 1
    return _masks_from_flags(~masked, masked)


def masks_from_used(context_mask: Tensor, target_masks: Tensor) -> Masks:
    """Return the masks that boolean tensors spell with True = use: context `[B, N]`, target blocks `[B, M, N]`.

    Raises:
        TrainingError: a tensor is not boolean, the shapes do not fit each other, a token is both context and target,
            or an image has no context or no targets.
    """
    if context_mask.dtype != torch.bool or target_masks.dtype != torch.bool:
        raise TrainingError("masks with True = use must be boolean; for 1 = masked use masks_from_masked(mask)")
    if target_masks.ndim != 3 or context_mask.shape != target_masks.shape[::2]:
        raise TrainingError(
            f"expected context [B, N] and targets [B, M, N], found {list(context_mask.shape)} and "
            f"{list(target_masks.shape)}"
        )
    union = target_masks.any(dim=1)
    if bool((union & context_mask).any()):
        raise TrainingError("a token is context and target at once: the network would be shown what it must predict")
    return _masks_from_flags(context_mask, union)


def _masks_from_flags(context: Tensor, targets: Tensor) -> Masks:
    seen, predicted = context.sum(dim=1), targets.sum(dim=1)
    if int(seen.min()) == 0 or int(predicted.min()) == 0:
        raise TrainingError("an image of the batch has no context or no targets; every image needs both")
    context_indices, context_valid = pick(context, int(seen.max()))
    target_indices, targets_valid = pick(targets, int(predicted.max()))
    padded = None if bool(context_valid.all()) else context_valid
    return Masks(context_indices, target_indices, targets_valid, targets, padded)


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

"""What training asks of masks: one interface for every kind, and how many tokens are seen when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from hjepa_eval.errors import ConfigError
from hjepa_pretrain.masks.blocks import level_scales
from hjepa_pretrain.masks.hierarchical import HierarchicalMaskGenerator
from hjepa_pretrain.masks.indices import Masks
from hjepa_pretrain.masks.multi_block import MultiBlockMaskGenerator
from hjepa_pretrain.masks.random_tokens import RandomMaskGenerator

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings

PARTS = 8

# What some kinds of masks read and others do not; every kind reads what is not listed.
_READ_BY = {
    "num_masks": {"multi_block"},
    "mask_scale": {"multi_block"},
    "aspect_ratio": {"multi_block", "hierarchical"},
    "context_scale": {"multi_block"},
    "aligned": {"multi_block"},
    "roll": {"multi_block", "hierarchical"},
    "num_masks_per_level": {"hierarchical"},
    "scale_progression": {"hierarchical"},
    "base_scale": {"hierarchical"},
}


class MaskGenerator(Protocol):
    """Draws the masks of a step."""

    @property
    def fewest_targets(self) -> int:
        """Tokens that the targets of every image hide at least; no more than the others can be seen."""
        ...

    def sample(
        self,
        batch_size: int,
        device: torch.device | str,
        *,
        step: int,
        context_tokens: int,
        target_tokens: int,
        saliency: Tensor | None = None,
    ) -> Masks:
        """Return masks of `batch_size` images with fixed counts, a function of the seed and `step` alone.

        Args:
            batch_size: images `B`.
            device: where the masks are made; nothing waits for it while target blocks may overlap.
            step: of the training.
            context_tokens: seen of each image; no context is padded.
            target_tokens: listed at level 0 at most; fewer are padded.
            saliency: `[B, N]`, not negative, or None.
        """
        ...


def masking_problems(masking: MaskingSettings, *, num_levels: int) -> list[str]:
    """Return what in the settings does not fit together, or would change nothing; an empty list when all is well."""
    problems = _contradictions(masking, num_levels=num_levels)
    kind, fields = masking.type, type(masking).model_fields
    unread = [
        f"masking.{name}"
        for name, kinds in _READ_BY.items()
        if kind not in kinds and getattr(masking, name) != fields[name].default
    ]
    if unread:
        problems.append(f"masking.type {kind} does not read {', '.join(unread)}; leave out what it does not read")
    retried = kind == "multi_block" and not masking.allow_target_overlap
    if not retried and masking.max_attempts != fields["max_attempts"].default:
        problems.append(
            f"masking.max_attempts {masking.max_attempts} is for multi_block with allow_target_overlap=false; "
            "nothing else is tried again, leave it out"
        )
    if kind == "random" and not masking.allow_target_overlap:
        problems.append("masking.allow_target_overlap=false is for blocks; random masks have none, leave it out")
    return problems


def _contradictions(masking: MaskingSettings, *, num_levels: int) -> list[str]:
    """Return what cannot be drawn. What a kind does not read is none: `preview_masks` draws every kind."""
    problems = []
    if masking.mask_ratio is not None and masking.context_tokens is not None:
        problems.append("masking.mask_ratio and masking.context_tokens say the same thing; give one of them")
    if masking.mask_ratio_end is not None and masking.mask_ratio is None:
        problems.append("masking.mask_ratio_end needs a masking.mask_ratio to begin with")
    if masking.num_hierarchies not in (None, num_levels):
        problems.append(f"masking.num_hierarchies {masking.num_hierarchies} disagrees with the model's {num_levels}")
    if masking.type == "hierarchical":
        if not masking.allow_target_overlap:
            problems.append(
                "masking.allow_target_overlap=false does not fit hierarchical masks: coarse blocks must overlap"
            )
        try:
            level_scales(masking.base_scale, masking.scale_progression, num_levels)
        except ConfigError as error:
            problems.append(f"masking.{error}")
    return problems


def create_mask_generator(
    masking: MaskingSettings, *, image_size: int, patch_size: int, num_levels: int, context_tokens: int, seed: int
) -> MultiBlockMaskGenerator | HierarchicalMaskGenerator | RandomMaskGenerator:
    """Return the generator that the settings ask for.

    Args:
        masking: what is asked for.
        image_size: side in pixels.
        patch_size: side of a patch in pixels.
        num_levels: levels of the model.
        context_tokens: that every image has at least, in masks that are not sampled with a count.
        seed: of the masks.

    Raises:
        ConfigError: settings contradict each other or the geometry; all of it in one message.
    """
    if problems := _contradictions(masking, num_levels=num_levels):
        raise ConfigError("; ".join(problems))
    if masking.type == "random":
        return RandomMaskGenerator(
            image_size, patch_size, context_tokens=context_tokens, saliency=masking.saliency, seed=seed
        )
    if masking.type == "hierarchical":
        return HierarchicalMaskGenerator(
            image_size,
            patch_size,
            num_levels,
            masking.num_masks_per_level,
            masking.scale_progression,
            masking.base_scale,
            masking.aspect_ratio,
            masking.max_attempts,
            min_keep=context_tokens,
            roll=masking.roll,
            saliency=masking.saliency,
            seed=seed,
        )
    return MultiBlockMaskGenerator(
        image_size,
        patch_size,
        masking.num_masks,
        masking.mask_scale,
        masking.context_scale,
        masking.aspect_ratio,
        masking.max_attempts,
        allow_target_overlap=masking.allow_target_overlap,
        min_keep=context_tokens,
        aligned=masking.aligned,
        roll=masking.roll,
        saliency=masking.saliency,
        seed=seed,
    )


def context_count(masking: MaskingSettings, num_patches: int, progress: float) -> int:
    """Return how many tokens of each image are seen at `progress` in [0, 1].

    `mask_ratio` moves to `mask_ratio_end` in eight equal parts of the training, from exactly the one to exactly the
    other: every new count compiles the step again, so there are few of them.
    """
    if masking.mask_ratio is None:
        return masking.context_tokens or max(1, num_patches * 3 // 8)
    part = min(int(progress * PARTS), PARTS - 1) / (PARTS - 1)
    end = masking.mask_ratio if masking.mask_ratio_end is None else masking.mask_ratio_end
    ratio = masking.mask_ratio + (end - masking.mask_ratio) * part
    return min(max(round(num_patches * (1 - ratio)), 1), num_patches - 1)

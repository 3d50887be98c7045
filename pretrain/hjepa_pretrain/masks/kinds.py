"""Which generator settings ask for: one file and one line here add a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hjepa_eval.errors import ConfigError
from hjepa_pretrain.masks.blocks import level_scales
from hjepa_pretrain.masks.hierarchical import HierarchicalMaskGenerator
from hjepa_pretrain.masks.multi_block import MultiBlockMaskGenerator
from hjepa_pretrain.masks.random_tokens import RandomMaskGenerator

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings


def masking_contradictions(masking: MaskingSettings, *, num_levels: int) -> list[str]:
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
    if problems := masking_contradictions(masking, num_levels=num_levels):
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

"""Which tokens the encoder sees (context) and which are predicted (targets)."""

from hjepa_pretrain.masks.indices import Masks, masks_from_masked, masks_from_used
from hjepa_pretrain.masks.multi_block import MultiBlockMaskGenerator

__all__ = ["Masks", "MultiBlockMaskGenerator", "masks_from_masked", "masks_from_used"]


from hjepa_pretrain.masks.counts import context_count


class _G:
    def __init__(self, g):
        self.g = g

    def sample(self, *a, saliency=None, **k):
        return self.g.sample(*a, **k)


def create_mask_generator(masking, *, image_size, patch_size, num_levels, context_tokens, seed):
    return _G(
        MultiBlockMaskGenerator(
            image_size,
            patch_size,
            masking.num_masks,
            masking.mask_scale,
            masking.context_scale,
            masking.aspect_ratio,
            masking.max_attempts,
            allow_target_overlap=masking.allow_target_overlap,
            min_keep=context_tokens,
            seed=seed,
        )
    )

"""Which tokens the encoder sees (context) and which are predicted (targets)."""

from hjepa_pretrain.masks.generator import MaskGenerator
from hjepa_pretrain.masks.hierarchical import HierarchicalMaskGenerator
from hjepa_pretrain.masks.indices import Masks, masks_from_masked, masks_from_used
from hjepa_pretrain.masks.kinds import create_mask_generator
from hjepa_pretrain.masks.multi_block import MultiBlockMaskGenerator
from hjepa_pretrain.masks.preview import Preview, preview_masks
from hjepa_pretrain.masks.random_tokens import RandomMaskGenerator

__all__ = [
    "HierarchicalMaskGenerator",
    "MaskGenerator",
    "Masks",
    "MultiBlockMaskGenerator",
    "Preview",
    "RandomMaskGenerator",
    "create_mask_generator",
    "masks_from_masked",
    "masks_from_used",
    "preview_masks",
]

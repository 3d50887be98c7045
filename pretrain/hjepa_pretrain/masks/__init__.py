"""Which tokens the encoder sees (context) and which are predicted (targets)."""

from hjepa_pretrain.masks.indices import Masks, masks_from_masked, masks_from_used
from hjepa_pretrain.masks.multi_block import MultiBlockMaskGenerator

__all__ = ["Masks", "MultiBlockMaskGenerator", "masks_from_masked", "masks_from_used"]

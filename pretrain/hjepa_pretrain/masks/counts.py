from __future__ import annotations


def context_count(masking, num_patches, progress):
    if masking.mask_ratio is None:
        return masking.context_tokens or max(1, num_patches * 3 // 8)
    return max(1, round(num_patches * (1 - masking.mask_ratio)))

"""What masks really cover: shares, overlaps, complete cells per level, and where on the grid."""

from __future__ import annotations

from torch import Tensor

from hjepa_eval.encoders.vit import cells, pool_cells


def mask_statistics(context_mask: Tensor, target_masks: Tensor, grid: tuple[int, int]) -> dict[str, object]:
    """Return what a batch of masks covers, as shares of the `N` tokens unless said otherwise.

    Args:
        context_mask: bool `[B, N]`, True = use.
        target_masks: bool `[B, M, N]`, True = use.
        grid: rows and columns, `N` in all.

    Returns:
        `context_coverage`, `context_coverage_std`, `smallest_context` (tokens), `target_coverage` (of one block),
        `target_coverage_std`, `target_union`, `target_overlap` (mean tokens shared by two blocks of an image, as a
        share of a block), `context_target_overlap` (0 always), `complete_cells` (per level: cells wholly inside the
        union of targets) and `coverage_map` (`rows x columns`: how often a token is a target).
    """
    context, targets = context_mask.float(), target_masks.float()
    union = target_masks.any(dim=1)
    blocks = target_masks.shape[1]
    area = targets.sum(dim=-1)
    shared = targets @ targets.transpose(1, 2)
    pairs = shared.sum(dim=(1, 2)) - area.sum(dim=1)
    pair_share = pairs / (blocks * max(blocks - 1, 1)) / area.mean(dim=1).clamp(min=1)
    levels = 1
    while cells(grid, levels) != cells(grid, levels - 1):
        levels += 1
    complete = [
        float((pool_cells(union.float().unsqueeze(-1), grid, level) > 1 - 1e-6).sum(dim=(1, 2)).float().mean())
        for level in range(levels)
    ]
    return {
        "context_coverage": float(context.mean()),
        "context_coverage_std": float(context.mean(dim=1).std(unbiased=False)),
        "smallest_context": int(context_mask.sum(dim=1).min()),
        "target_coverage": float(targets.mean()),
        "target_coverage_std": float(targets.mean(dim=-1).std(unbiased=False)),
        "target_union": float(union.float().mean()),
        "target_overlap": float(pair_share.mean()),
        "context_target_overlap": float((union & context_mask).float().mean()),
        "complete_cells": complete,
        "coverage_map": union.float().mean(dim=0).reshape(grid).tolist(),
    }

"""What masks really cover: shares, overlaps, shapes, complete cells per level, and where on the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hjepa_eval.encoders.vit import cells, pool_cells


def mask_statistics(context_mask: Tensor, target_masks: Tensor, grid: tuple[int, int]) -> dict[str, Any]:
    """Return what a batch of masks covers, as shares of the `N` tokens unless said otherwise.

    Args:
        context_mask: bool `[B, N]`, True = use.
        target_masks: bool `[B, M, N]`, True = use.
        grid: rows and columns, `N` in all.

    Returns:
        `context_coverage`, `context_coverage_std`, `smallest_context` (tokens), `target_coverage` (of one block),
        `target_coverage_std`, `achieved_scale` (smallest and largest block that is not empty), `empty_targets` (share
        of blocks), `target_union`, `target_overlap` (mean tokens shared by two blocks of an image, as a share of a
        block), `context_target_overlap` (0 always), `target_aspect` (smallest and largest rows / columns),
        `target_elongation` (mean longer over shorter side, 1 is square), `complete_cells` (per level: cells wholly
        inside the union of targets), `coverage_map` and `context_map` (`rows x columns`: how often a token is a target,
        or context).
    """
    context, targets = context_mask.float(), target_masks.float()
    union = target_masks.any(dim=1)
    blocks = target_masks.shape[1]
    area = targets.sum(dim=-1)
    shared = targets @ targets.transpose(1, 2)
    pairs = shared.sum(dim=(1, 2)) - area.sum(dim=1)
    pair_share = pairs / (blocks * max(blocks - 1, 1)) / area.mean(dim=1).clamp(min=1)
    return {
        "context_coverage": float(context.mean()),
        "context_coverage_std": float(context.mean(dim=1).std(unbiased=False)),
        "smallest_context": int(context_mask.sum(dim=1).min()),
        "target_coverage": float(targets.mean()),
        "target_coverage_std": float(targets.mean(dim=-1).std(unbiased=False)),
        **_shapes(target_masks.reshape(-1, *grid)),
        "target_union": float(union.float().mean()),
        "target_overlap": float(pair_share.mean()),
        "context_target_overlap": float((union & context_mask).float().mean()),
        "complete_cells": complete_cells(union, grid),
        "coverage_map": union.float().mean(dim=0).reshape(grid).tolist(),
        "context_map": context.mean(dim=0).reshape(grid).tolist(),
    }


def complete_cells(union: Tensor, grid: tuple[int, int]) -> list[float]:
    """Return, per level of the grid, how many cells lie wholly inside the targets' union `[B, N]`, on average."""
    levels = 1
    while cells(grid, levels) != cells(grid, levels - 1):
        levels += 1
    hidden = [pool_cells(union.float().unsqueeze(-1), grid, level) > 1 - 1e-6 for level in range(levels)]
    return [float(each.sum(dim=(1, 2)).float().mean()) for each in hidden]


def _shapes(blocks: Tensor) -> dict[str, Any]:
    """Return size and shape of blocks `[K, rows, columns]`; a rolled block has the rows and columns that it touches."""
    area = blocks.sum(dim=(1, 2))
    there = area > 0
    empty = {"empty_targets": float((~there).float().mean())}
    if not bool(there.any()):
        return {"achieved_scale": [0.0, 0.0], **empty, "target_aspect": [1.0, 1.0], "target_elongation": 1.0}
    share = area[there] / blocks[0].numel()
    sides = torch.stack((blocks.any(dim=2).sum(dim=1), blocks.any(dim=1).sum(dim=1)), dim=1)[there]
    aspect = sides[:, 0] / sides[:, 1]
    return {
        "achieved_scale": [float(share.min()), float(share.max())],
        **empty,
        "target_aspect": [float(aspect.min()), float(aspect.max())],
        "target_elongation": float((sides.amax(dim=1) / sides.amin(dim=1)).mean()),
    }

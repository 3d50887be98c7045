"""Multi-block masks: a few target blocks and one large context block per image, all images at once.

Source: I-JEPA (Assran et al. 2023), section 3. Deviation: bounds are inclusive, so the last row and column are used;
scale and aspect are drawn independently; sizes are the integer ones whose area lies in the asked range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.masks.blocks import (
    Range,
    SizeTable,
    block_sizes,
    check_count,
    check_keep,
    check_range,
    check_share,
    paint,
)
from hjepa_pretrain.masks.generator import Device, FlatMaskGenerator, Regions
from hjepa_pretrain.masks.indices import separate
from hjepa_pretrain.masks.placement import random_corners, roll, roll_places, salient_corners, separate_blocks, unroll

LATTICE = 2


class MultiBlockMaskGenerator(FlatMaskGenerator):
    """Draws context and target blocks for a batch; every image gets its own, and the same (seed, step) the same."""

    title = "Multi-block masks"

    def __init__(
        self,
        input_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_target_masks: int = 4,
        target_scale: Range = (0.15, 0.2),
        context_scale: Range = (0.85, 1.0),
        aspect_ratio_range: Range = (0.75, 1.5),
        max_attempts: int = 10,
        *,
        allow_target_overlap: bool = True,
        min_keep: int = 1,
        aligned: float = 0.0,
        roll: float = 0.0,
        saliency: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare the block sizes that fit the grid.

        Args:
            input_size: image side in pixels, or (height, width).
            patch_size: patch side in pixels.
            num_target_masks: target blocks `M` per image.
            target_scale: smallest and largest share of the grid that a target block covers.
            context_scale: smallest and largest share of the grid that the context block covers.
            aspect_ratio_range: smallest and largest rows / columns of a target block, drawn log-uniformly.
            max_attempts: whole layouts tried before blocks that must not overlap are made smaller.
            allow_target_overlap: whether target blocks of one image may overlap each other, as in I-JEPA.
            min_keep: context tokens that every image has at least; when the blocks leave fewer, tokens outside the
                context block are added, and then tokens are taken from the targets.
            aligned: share of images whose target blocks lie on the lattice of 2x2 tokens, corner and size, so that
                they hide whole cells of level 1. Where no such size meets scale and aspect, the nearest is taken.
            roll: share of images whose masks are rolled around the grid.
            saliency: how much targets prefer salient tokens, where a call knows them: the probability of a corner is
                the saliency inside the block to this power.
            seed: of the generator.

        Raises:
            ConfigError: the patch does not divide the image, a range or share is none, `min_keep` leaves nothing to
                predict, or the grid is too small for aligned blocks.
        """
        super().__init__(input_size, patch_size, roll=roll, saliency=saliency, seed=seed)
        check_count("num_target_masks", num_target_masks)
        check_keep("min_keep", min_keep, self.num_patches)
        check_count("max_attempts", max_attempts)
        check_range("target_scale", target_scale, most=1)
        check_range("context_scale", context_scale, most=1)
        check_range("aspect_ratio_range", aspect_ratio_range)
        check_share("aligned", aligned)
        if aligned and min(self.grid) <= LATTICE:
            rows, columns = self.grid
            raise ConfigError(
                f"aligned blocks need more than {LATTICE} rows and columns, found {rows}x{columns} tokens"
            )
        self.num_target_masks, self.max_attempts = num_target_masks, max_attempts
        self.target_scale, self.context_scale, self.aspect_ratio_range = target_scale, context_scale, aspect_ratio_range
        self.allow_target_overlap, self.min_keep = allow_target_overlap, min_keep
        self.aligned = aligned
        self._sizes = self._table(cell=1)
        self._aligned_sizes = self._table(cell=LATTICE)

    @property
    def fewest_targets(self) -> int:
        """Tokens that the target blocks of every image hide at least."""
        apart = 1 if self.allow_target_overlap else self.num_target_masks
        tables = [self._sizes] * (self.aligned < 1) + [self._aligned_sizes] * (self.aligned > 0)
        # Blocks that find no place apart are made smaller.
        return min(apart * min(table.smallest for table in tables), self.num_patches - 1)

    def _table(self, *, cell: int) -> SizeTable:
        allowed = block_sizes(self.grid, self.target_scale, self.aspect_ratio_range, cell=cell)
        return SizeTable(allowed, grid=self.grid, scale=self.target_scale, aspect=self.aspect_ratio_range)

    def _drawn(self, batch: int, device: Device, step: int, saliency: Tensor | None) -> tuple[Tensor, Tensor]:
        box, targets = self._blocks(batch, device, step, saliency)
        generator = seeded_generator(self.seed, step, "kept", device)
        return separate(box, targets, keep=self.min_keep, generator=generator)

    def _regions(
        self, batch: int, device: Device, step: int, saliency: Tensor | None, *, context_tokens: int
    ) -> Regions:
        box, targets = self._blocks(batch, device, step, saliency)
        return Regions(box, targets.any(dim=1))

    def _blocks(self, batch: int, device: Device, step: int, saliency: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the context block `[B, N]` and the target blocks `[B, M, N]`, which may share tokens."""
        generator = seeded_generator(self.seed, step, "masks", device)
        cell = torch.ones(batch, dtype=torch.int64, device=generator.device)
        if self.aligned:
            chance = seeded_generator(self.seed, step, "aligned", device)
            cell = cell + (LATTICE - 1) * (torch.rand(batch, generator=chance, device=chance.device) < self.aligned)
        places = roll_places(self.grid, cell, share=self.roll, seed=self.seed, step=step)
        if saliency is not None:
            # Blocks are placed before they are rolled, and must be salient where they end.
            saliency = unroll(saliency, places) if self.saliency else None
        targets = self._target_blocks(batch, cell, saliency, generator).flatten(2)
        box = self._context_block(batch, generator).flatten(1)
        return roll(box, places), roll(targets, places)

    def _target_blocks(self, batch: int, cell: Tensor, saliency: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return bool `[B, M, rows, columns]`."""
        sizes = self._draw_sizes(batch, cell, generator)
        if not self.allow_target_overlap:
            return self._separate(sizes, cell, saliency, generator)
        if saliency is None:
            corners = random_corners(self.grid, sizes, cell, generator=generator)
        else:
            corners = salient_corners(self.grid, sizes, cell, saliency, strength=self.saliency, generator=generator)
        return paint(self.grid, corners, sizes)

    def _separate(self, sizes: Tensor, cell: Tensor, saliency: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return blocks without overlap; images whose sizes fit nowhere try other sizes, and at last smaller ones."""
        blocks = torch.zeros(*sizes.shape[:2], *self.grid, dtype=torch.bool, device=sizes.device)
        open_images = torch.arange(len(sizes), device=sizes.device)
        for attempt in range(1, self.max_attempts + 1):
            tried, fits = separate_blocks(
                self.grid,
                sizes,
                cell[open_images],
                shrink=attempt == self.max_attempts,
                generator=generator,
                saliency=None if saliency is None else saliency[open_images],
                strength=self.saliency,
            )
            blocks[open_images] = tried
            open_images = open_images[~fits]
            if not len(open_images):
                break
            sizes = self._draw_sizes(len(open_images), cell[open_images], generator)
        return blocks

    def _draw_sizes(self, batch: int, cell: Tensor, generator: torch.Generator) -> Tensor:
        """Return int64 `[B, M, 2]`."""
        sizes = self._sizes.draw(batch, self.num_target_masks, generator=generator)
        if not self.aligned:
            return sizes
        on_lattice = self._aligned_sizes.draw(batch, self.num_target_masks, generator=generator)
        return torch.where((cell == LATTICE).view(-1, 1, 1), on_lattice, sizes)

    def _context_block(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return bool `[B, rows, columns]`: a block with the proportions of the grid."""
        draws = torch.rand(batch, 3, generator=generator, device=generator.device)
        share = self.context_scale[0] + draws[:, 0] * (self.context_scale[1] - self.context_scale[0])
        sides = [(side * share.sqrt()).round().long().clamp(min=1, max=side) for side in self.grid]
        corners = [(draws[:, 1 + axis] * (side - sides[axis] + 1)).long() for axis, side in enumerate(self.grid)]
        return paint(self.grid, torch.stack(corners, dim=1), torch.stack(sides, dim=1))

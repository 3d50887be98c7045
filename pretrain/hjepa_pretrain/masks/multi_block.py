"""Multi-block masks: a few target blocks and one large context block per image, all images at once.

Source: I-JEPA (Assran et al. 2023), section 3. Deviation: bounds are inclusive, so the last row and column are used;
scale and aspect are drawn independently; sizes are the integer ones whose area lies in the asked range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.masks.indices import Masks, pick
from hjepa_pretrain.masks.statistics import mask_statistics


def block_sizes(grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> Tensor:
    """Return int64 `[S, 2]`, the (rows, columns) of all blocks on `grid` whose area and aspect lie in the ranges.

    Where no integer size meets both, the aspect gives way; where none meets the scale either, the nearest area wins.
    """
    rows, columns = grid
    sizes = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1))
    area = sizes.prod(dim=1) / (rows * columns)
    ratio = sizes[:, 0] / sizes[:, 1]
    in_scale = (area >= scale[0] - 1e-6) & (area <= scale[1] + 1e-6)
    in_aspect = (ratio >= aspect[0] - 1e-6) & (ratio <= aspect[1] + 1e-6)
    if (in_scale & in_aspect).any():
        return sizes[in_scale & in_aspect]
    excess = (ratio.log().abs() - math.log(max(aspect[1], 1 / aspect[0]))).clamp(min=0)
    distance = (area - area.clamp(*scale)).abs()
    chosen = in_scale if in_scale.any() else distance == distance.min()
    nearest = excess[chosen] == excess[chosen].min()
    return sizes[chosen][nearest]


class MultiBlockMaskGenerator:
    """Draws context and target blocks for a batch; every image gets its own, and the same (seed, step) the same."""

    def __init__(
        self,
        input_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        num_target_masks: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        context_scale: tuple[float, float] = (0.85, 1.0),
        aspect_ratio_range: tuple[float, float] = (0.75, 1.5),
        max_attempts: int = 10,
        *,
        allow_target_overlap: bool = True,
        min_keep: int = 1,
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
            seed: of the generator.

        Raises:
            ConfigError: the patch does not divide the image, or `min_keep` leaves nothing to predict.
        """
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        if height % patch_size or width % patch_size:
            raise ConfigError(f"the patch size {patch_size} does not divide the image of {height}x{width} pixels")
        self.grid = (height // patch_size, width // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        if not 1 <= min_keep < self.num_patches:
            raise ConfigError(
                f"min_keep {min_keep} must lie between 1 and {self.num_patches - 1}, one less than tokens"
            )
        self.num_target_masks = num_target_masks
        self.context_scale = context_scale
        self.target_scale = target_scale
        self.aspect_ratio_range = aspect_ratio_range
        self.max_attempts = max_attempts
        self.allow_target_overlap = allow_target_overlap
        self.min_keep = min_keep
        self.seed = seed
        self.step = 0
        self._sizes = block_sizes(self.grid, target_scale, aspect_ratio_range)

    def __call__(
        self, batch_size: int, device: torch.device | str = "cpu", *, step: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return context `[B, N]` and targets `[B, M, N]`, boolean with True = use; they never share a token.

        Args:
            batch_size: images `B`.
            device: where the masks are made.
            step: draws the masks of that step; without it, the generator counts its calls.
        """
        step = self.step if step is None else step
        self.step = step + 1
        generator = seeded_generator(self.seed, step, "masks", device)
        targets = self._target_blocks(batch_size, generator)
        box = self._context_block(batch_size, generator).flatten(1)
        free = ~targets.flatten(2).any(dim=1)
        rank = torch.rand(batch_size, self.num_patches, generator=generator, device=device)
        rank = rank + free + (free & box)
        kept = torch.zeros_like(free).scatter_(1, rank.topk(self.min_keep, dim=1).indices, True)
        context = (box & free) | kept
        return context, targets.flatten(2) & ~context.unsqueeze(1)

    def sample(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        step: int,
        context_tokens: int,
        target_tokens: int,
    ) -> Masks:
        """Return the masks of a `step` with fixed counts: `context_tokens` random ones of each context, no padding.

        Targets are the union of an image's blocks, or a random `target_tokens` of it, padded where it holds fewer.

        Raises:
            ConfigError: `context_tokens` is larger than `min_keep`, which alone is certain to be there.
        """
        if context_tokens > self.min_keep:
            raise ConfigError(f"{context_tokens} context tokens are not certain with min_keep {self.min_keep}")
        context_mask, target_masks = self(batch_size, device, step=step)
        union = target_masks.any(dim=1)
        generator = seeded_generator(self.seed, step, "tokens", device)
        context, _ = pick(context_mask, context_tokens, generator=generator)
        targets, valid = pick(union, target_tokens, generator=generator)
        return Masks(context, targets, valid, union)

    def get_mask_statistics(self, context_mask: Tensor, target_masks: Tensor) -> dict[str, object]:
        """Return shares, overlaps and the coverage map of masks; see `mask_statistics`."""
        return mask_statistics(context_mask, target_masks, self.grid)

    def _target_blocks(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return bool `[B, M, rows, columns]`."""
        sizes = self._draw_sizes(batch, generator)
        if self.allow_target_overlap:
            draws = torch.rand(batch, self.num_target_masks, 2, generator=generator, device=generator.device)
            room = torch.tensor(self.grid, device=generator.device) - sizes + 1
            return self._paint((draws * room).long(), sizes)
        blocks, done = self._place_apart(sizes, generator)
        for attempt in range(1, self.max_attempts):
            if bool(done.all()):
                return blocks
            sizes = torch.where(done.view(-1, 1, 1), sizes, self._draw_sizes(batch, generator))
            again, fits = self._place_apart(sizes, generator, shrink=attempt == self.max_attempts - 1)
            blocks = torch.where(done.view(-1, 1, 1, 1), blocks, again)
            done = done | fits
        return blocks

    def _draw_sizes(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return int64 `[B, M, 2]`: of the allowed sizes the nearest to independent draws of scale and aspect."""
        device = generator.device
        draws = torch.rand(2, batch, self.num_target_masks, generator=generator, device=device)
        low, high = (math.log(bound) for bound in self.aspect_ratio_range)
        area = (self.target_scale[0] + draws[0] * (self.target_scale[1] - self.target_scale[0])) * self.num_patches
        aspect = low + draws[1] * (high - low)
        allowed = self._sizes.to(device)
        log_area, log_aspect = allowed.prod(1).log(), allowed[:, 0].log() - allowed[:, 1].log()
        distance = (area.log().unsqueeze(-1) - log_area) ** 2 + (aspect.unsqueeze(-1) - log_aspect) ** 2
        return allowed[distance.argmin(dim=-1)]

    def _paint(self, corners: Tensor, sizes: Tensor) -> Tensor:
        """Return bool `[..., rows, columns]`, True inside blocks given by corners and sizes `[..., 2]`."""
        rows = torch.arange(self.grid[0], device=corners.device)
        columns = torch.arange(self.grid[1], device=corners.device)
        top, left = corners[..., :1], corners[..., 1:]
        in_rows = (rows >= top) & (rows < top + sizes[..., :1])
        in_columns = (columns >= left) & (columns < left + sizes[..., 1:])
        return in_rows.unsqueeze(-1) & in_columns.unsqueeze(-2)

    def _context_block(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return bool `[B, rows, columns]`: a block with the proportions of the grid."""
        draws = torch.rand(batch, 3, generator=generator, device=generator.device)
        share = self.context_scale[0] + draws[:, :1] * (self.context_scale[1] - self.context_scale[0])
        grid = torch.tensor(self.grid, device=generator.device)
        sizes = torch.minimum((grid * share.sqrt()).round().long().clamp(min=1), grid)
        return self._paint((draws[:, 1:] * (grid - sizes + 1)).long(), sizes)

    def _place_apart(self, sizes: Tensor, generator: torch.Generator, *, shrink: bool = True) -> tuple[Tensor, Tensor]:
        """Return blocks without overlap `[B, M, rows, columns]`, and which images kept all their sizes `[B]`."""
        batch = len(sizes)
        taken = torch.zeros(batch, *self.grid, dtype=torch.bool, device=sizes.device)
        complete = torch.ones(batch, dtype=torch.bool, device=sizes.device)
        blocks = []
        for number in range(self.num_target_masks):
            size = sizes[:, number].clone()
            places = self._free_places(taken, size)
            complete &= places.any(dim=1)
            while shrink and not bool(places.any(dim=1).all()):
                stuck = ~places.any(dim=1) & (size.prod(dim=1) > 1)
                if not bool(stuck.any()):
                    break
                longer = torch.nn.functional.one_hot(size.argmax(dim=1), 2)
                size = size - longer * stuck.unsqueeze(1)
                places = self._free_places(taken, size)
            draws = torch.rand(batch, self.num_patches, generator=generator, device=sizes.device)
            corner = (draws * places).argmax(dim=1)
            corners = torch.stack((corner // self.grid[1], corner % self.grid[1]), dim=1)
            block = self._paint(corners, size) & places.any(dim=1).view(-1, 1, 1)
            taken |= block
            blocks.append(block)
        return torch.stack(blocks, dim=1), complete

    def _free_places(self, taken: Tensor, size: Tensor) -> Tensor:
        """Return bool `[B, N]`: corners where a block of `size` `[B, 2]` lies on the grid and on nothing `taken`."""
        rows, columns = self.grid
        sums = torch.nn.functional.pad(taken.int().cumsum(1).cumsum(2), (1, 0, 1, 0))
        top = torch.arange(rows, device=taken.device).view(1, -1, 1)
        left = torch.arange(columns, device=taken.device).view(1, 1, -1)
        bottom, right = top + size[:, 0].view(-1, 1, 1), left + size[:, 1].view(-1, 1, 1)
        inside = (bottom <= rows) & (right <= columns)
        bottom, right = bottom.clamp(max=rows), right.clamp(max=columns)
        image = torch.arange(len(taken), device=taken.device).view(-1, 1, 1)
        count = (
            sums[image, bottom, right] - sums[image, top, right] - sums[image, bottom, left] + sums[image, top, left]
        )
        return (inside & (count == 0)).flatten(1)

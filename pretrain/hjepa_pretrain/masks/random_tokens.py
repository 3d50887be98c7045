"""Random masks: single tokens, as in MAE; the plainest thing to compare blocks with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain.masks.blocks import check_keep, grid_of
from hjepa_pretrain.masks.indices import Masks, fixed_masks
from hjepa_pretrain.masks.inspection import InspectableMasks


class RandomMaskGenerator(InspectableMasks):
    """Draws a random choice of tokens per image; the same (seed, step) the same.

    Source: MAE (He et al. 2022), section 3.
    """

    title = "Random masks"

    def __init__(
        self,
        input_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        *,
        context_tokens: int,
        saliency: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare the grid.

        Args:
            input_size: image side in pixels, or (height, width).
            patch_size: patch side in pixels.
            context_tokens: tokens that are seen; all others are targets.
            saliency: how much targets prefer salient tokens: they are drawn with the saliency to this power as weight.
            seed: of the generator.

        Raises:
            ConfigError: the patch does not divide the image, or the count leaves nothing to see or to predict.
        """
        self.grid = grid_of(input_size, patch_size)
        self.num_patches = math.prod(self.grid)
        check_keep("context_tokens", context_tokens, self.num_patches)
        self.context_tokens, self.saliency, self.seed = context_tokens, saliency, seed
        self.step = 0

    @property
    def fewest_targets(self) -> int:
        """Tokens that are hidden of every image at least: one, since any number may be seen."""
        return 1

    def __call__(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        step: int | None = None,
        saliency: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return context `[B, N]` and targets `[B, 1, N]`, boolean with True = use."""
        step = self.step if step is None else step
        self.step = step + 1
        hidden = self._hidden(batch_size, device, step, self.num_patches - self.context_tokens, saliency)
        return ~hidden, hidden.unsqueeze(1)

    def sample(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        step: int,
        context_tokens: int,
        target_tokens: int,
        saliency: Tensor | None = None,
    ) -> Masks:
        """Return the masks of a `step`: `context_tokens` are seen, a random `target_tokens` of the others predicted.

        Raises:
            ConfigError: the counts leave nothing to see or to predict.
        """
        check_keep("context_tokens", context_tokens, self.num_patches)
        hidden = self._hidden(batch_size, device, step, self.num_patches - context_tokens, saliency)
        return fixed_masks(
            ~hidden, hidden, context_tokens=context_tokens, target_tokens=target_tokens, seed=self.seed, step=step
        )

    def _hidden(self, batch: int, device: torch.device | str, step: int, count: int, saliency: Tensor | None) -> Tensor:
        """Return bool `[B, N]`, `count` tokens per image, drawn without replacement by Gumbel numbers."""
        generator = seeded_generator(self.seed, step, "masks", device)
        draws = torch.rand(batch, self.num_patches, generator=generator, device=generator.device)
        if saliency is not None and self.saliency:
            relative = saliency.float().clamp(min=0)
            relative = relative / relative.mean(dim=1, keepdim=True).clamp(min=1e-12)
            draws = self.saliency * relative.clamp(min=1e-6).log() - (-draws.clamp(min=1e-12).log()).log()
        chosen = draws.topk(count, dim=1, sorted=False).indices
        return torch.zeros_like(draws, dtype=torch.bool).scatter_(1, chosen, True)

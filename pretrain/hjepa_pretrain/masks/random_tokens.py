"""Random masks: single tokens, as in MAE; the plainest thing to compare blocks with."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_pretrain.masks.blocks import check_keep
from hjepa_pretrain.masks.generator import Device, FlatMaskGenerator, Regions


class RandomMaskGenerator(FlatMaskGenerator):
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
        super().__init__(input_size, patch_size, saliency=saliency, seed=seed)
        check_keep("context_tokens", context_tokens, self.num_patches)
        self.context_tokens = context_tokens

    @property
    def fewest_targets(self) -> int:
        """Tokens that are hidden of every image at least: one, since any number may be seen."""
        return 1

    def _drawn(self, batch: int, device: Device, step: int, saliency: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = self._hidden(batch, device, step, self.num_patches - self.context_tokens, saliency)
        return ~hidden, hidden.unsqueeze(1)

    def _regions(
        self, batch: int, device: Device, step: int, saliency: Tensor | None, *, context_tokens: int
    ) -> Regions:
        hidden = self._hidden(batch, device, step, self.num_patches - context_tokens, saliency)
        return Regions(~hidden, hidden)

    def _hidden(self, batch: int, device: Device, step: int, count: int, saliency: Tensor | None) -> Tensor:
        """Return bool `[B, N]`, `count` tokens per image, drawn without replacement by Gumbel numbers."""
        generator = seeded_generator(self.seed, step, "masks", device)
        draws = torch.rand(batch, self.num_patches, generator=generator, device=generator.device)
        if saliency is not None and self.saliency:
            relative = saliency.float().clamp(min=0)
            relative = relative / relative.mean(dim=1, keepdim=True).clamp(min=1e-12)
            draws = self.saliency * relative.clamp(min=1e-6).log() - (-draws.clamp(min=1e-12).log()).log()
        chosen = draws.topk(count, dim=1, sorted=False).indices
        return torch.zeros_like(draws, dtype=torch.bool).scatter_(1, chosen, True)

"""Context and target encoder with stages: any timm model that has them, for objectives that compare views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hjepa_eval.encoders.stages import stage_maps
from hjepa_eval.errors import TrainingError
from hjepa_pretrain.models.encoders import ContextEncoder, TargetEncoder, token_flags


class MaskedStages(ContextEncoder):
    """A network with stages that sees an image with hidden patches of pixels; each level is a stage.

    To its callers it is a `ContextEncoder`, but it has none of a ViT's parts: no tokens can be left out, so hidden
    pixels are zero (the mean colour, once images are normalised), and all cells of a stage are returned.

    Deviation: hidden pixels count in the statistics of BatchNorm, which are also those of the moving average, and which
        all views of a step share. SparK (Tian et al. 2023) has sparse convolutions instead.
    """

    network_name: ClassVar[str] = "network"

    def __init__(
        self,
        network: Any,
        *,
        taps: Sequence[int],
        grid: tuple[int, int],
        maps: Sequence[tuple[int, int, int]],
        image_size: int,
    ) -> None:
        """Wrap a `network` and freeze what no stage needs.

        Args:
            network: of `create_stages`; its state dict is what an evaluation loads.
            taps: one stage (from 1) per level.
            grid: rows and columns of the patches in which pixels are hidden.
            maps: width, rows and columns of what every stage returns.
            image_size: side of the images in pixels.
        """
        nn.Module.__init__(self)  # That of the parent looks at the parts of a ViT.
        self.network = network
        self.taps, self.grid, self.maps, self.image_size = tuple(taps), grid, tuple(maps), image_size
        self.image_shape = (image_size, image_size)
        self.prefix = 0
        self.mask_mode = "zero"
        self.checkpoint_activations = False  # Computed twice, a batch would count twice in BatchNorm.
        self.widths = tuple(maps[tap - 1][0] for tap in taps)
        _freeze_unreached(network, self.taps[-1] - 1, image_size)

    def forward(
        self,
        images: Tensor,
        context: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        hide_zeroed: bool = False,
    ) -> list[Tensor]:
        """Return all cells `[B, T_l, D_l]` of the stage of every level, then of the last stage once more.

        Args:
            images: normalised `[B, 3, H, W]`.
            context: int64 `[B, K]`, the visible patches; None shows the whole image.
            valid: bool `[B, K]`; False marks padding.
            hide_zeroed: of the parent; there is no attention here to keep.

        Raises:
            TrainingError: `hide_zeroed` is asked for.
        """
        if hide_zeroed:
            raise TrainingError(
                "an encoder with stages cannot hide zeroed patches from each other; pass hide_zeroed=False"
            )
        if context is not None:
            images = images * self._visible_pixels(images, context, valid)
        maps = stage_maps(self.network, images, [tap - 1 for tap in self.taps])
        outputs = [image.flatten(2).transpose(1, 2) for image in maps]
        return [*outputs, outputs[-1]]

    def _visible_pixels(self, images: Tensor, context: Tensor, valid: Tensor | None) -> Tensor:
        """Return `[B, 1, H, W]` in the images' dtype: 1 where a pixel lies in a visible patch, 0 elsewhere."""
        rows, columns = self.grid
        flags = token_flags(context, valid, rows * columns).view(-1, 1, rows, columns)
        height, width = images.shape[2] // rows, images.shape[3] // columns
        return flags.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3).to(images.dtype)

    def mean_token(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return fp32 `[B, D]`: the mean of all cells `[B, T, D]`; padding hides no cell."""
        return tokens.float().mean(dim=1)

    def moving_average(self) -> AveragedStages:
        """Return the target encoder that begins as a copy of this one."""
        return AveragedStages(self)

    def level_shapes(self) -> list[tuple[int, int]]:
        """Return rows and columns of every level."""
        return [self.maps[tap - 1][1:] for tap in self.taps]

    def pool(self, tokens: Tensor, level: int) -> Tensor:
        """Return the cells of a level as they are: a stage is as coarse as its level."""
        return tokens


class AveragedStages(MaskedStages, TargetEncoder):
    """The exponential moving average of a `MaskedStages`, in evaluation mode: BatchNorm uses its running statistics."""

    def __init__(self, context_encoder: MaskedStages) -> None:
        """Copy `context_encoder` as it is now, so that both are equal at step 0."""
        MaskedStages.__init__(
            self,
            copy.deepcopy(context_encoder.network),
            taps=context_encoder.taps,
            grid=context_encoder.grid,
            maps=context_encoder.maps,
            image_size=context_encoder.image_size,
        )
        self.requires_grad_(False)
        self.eval()


@torch.enable_grad()
def _freeze_unreached(network: nn.Module, stage: int, image_size: int) -> None:
    """Freeze what comes after the last `stage` (from 0), such as ConvNeXt's final norm: no gradient ever reaches it."""
    twin = copy.deepcopy(network).to("meta").eval()
    (image,) = stage_maps(twin, torch.zeros(1, 3, image_size, image_size, device="meta"), [stage])
    torch.autograd.backward(image.sum())
    for parameter, shadow in zip(network.parameters(), twin.parameters(), strict=True):
        parameter.requires_grad_(shadow.grad is not None)

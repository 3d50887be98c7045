"""How an image becomes an encoder's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """How an image becomes the encoder's input: resize the short side to `resize`, crop `size` x `size`, normalise.

    Attributes:
        size: side of the square input in pixels.
        resize: short side in pixels before the centre crop.
        interpolation: `bilinear` or `bicubic`, antialiased.
        mean: per channel, for pixel values in [0, 1].
        std: per channel, for pixel values in [0, 1].
    """

    size: int
    resize: int
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images `[B, 3, H, W]` as float32, scaled to [0, 1], minus the mean, over the deviation."""
        mean, std = (_per_channel(values, images) for values in (self.mean, self.std))
        return (images.float() / 255 - mean) / std


def _per_channel(values: tuple[float, float, float], images: Tensor) -> Tensor:
    """Return float32 `[1, 3, 1, 1]` on the images' device, filled there: a copy from the host would wait for it."""
    import torch

    filled = [torch.full((1, 1, 1), value, dtype=torch.float32, device=images.device) for value in values]
    return torch.stack(filled, dim=1)

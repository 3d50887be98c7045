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
        import torch

        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return (images.float() / 255 - mean) / std

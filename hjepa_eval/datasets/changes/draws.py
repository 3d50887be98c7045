"""What all changes draw from: random numbers that belong to an image, whatever batch it comes in; and small filters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.datasets.randomness import derive_seed, uniform_rows

# float32 uniform numbers are multiples of 2^-24; half of that keeps them off the ends.
_HALF = 2.0**-25


class Draws:
    """Random numbers of images, each a function of (seed, name, image) alone."""

    def __init__(self, seed: int, name: str, rows: NDArray) -> None:
        """Name the stream and the images, int64 `[B]` by their numbers in the data set."""
        self.seed, self.name, self.rows = seed, name, rows

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Return float32 `[B, *shape]`, evenly in (0, 1)."""
        key = derive_seed(self.seed, 0, f"{self.name} {stream}")
        numbers = torch.from_numpy(uniform_rows(key, self.rows, columns=math.prod(shape)))
        return (numbers + _HALF).reshape(len(self.rows), *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Return float32 `[B, *shape]`, normal with mean 0 and variance 1."""
        numbers: Tensor = torch.special.ndtri(self.uniform(stream, *shape))
        return numbers

    def between(self, stream: str, low: float, high: float) -> Tensor:
        """Return float32 `[B]`, evenly between two values."""
        return low + (high - low) * self.uniform(stream, 1)[:, 0]


def gaussian_taps(sigma: float, radius: int) -> Tensor:
    """Return the weights of a Gaussian at whole pixels from -radius to radius, float32, summing to 1."""
    if sigma == 0:
        return torch.eye(2 * radius + 1)[radius]
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


def blurred(images: Tensor, taps: Tensor, *, mode: str) -> Tensor:
    """Return images `[B, C, H, W]` filtered by the same odd number of taps down and across, edges padded by `mode`."""
    radius = len(taps) // 2
    channels = images.shape[1]
    padded = F.pad(images, (radius, radius, radius, radius), mode=mode)
    down = F.conv2d(padded, taps.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(down, taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def gaussian_blurred(images: Tensor, sigma: float) -> Tensor:
    """Return images blurred by a Gaussian cut at 4 sigma, edges repeated, as scikit-image does."""
    return images if sigma == 0 else blurred(images, gaussian_taps(sigma, int(4 * sigma + 0.5)), mode="replicate")


def zoomed(images: Tensor, factor: float) -> Tensor:
    """Return the middle of images `[B, C, H, W]` enlarged by a factor of at least 1, bilinear, corners on corners."""
    size = images.shape[-1]
    cut = math.ceil(size / factor)
    top = (size - cut) // 2
    middle = images[..., top : top + cut, top : top + cut]
    large = F.interpolate(middle, size=round(cut * factor), mode="bilinear", align_corners=True)
    trim = (large.shape[-1] - size) // 2
    return large[..., trim : trim + size, trim : trim + size]


def sampled(images: Tensor, rows: Tensor, columns: Tensor, *, nearest: bool = False) -> Tensor:
    """Return images `[B, C, H, W]` read at pixel places, float `[B, H, W]` each; beyond the edges they are mirrored."""
    size = images.shape[-1]
    grid = torch.stack([columns, rows], dim=-1) * (2 / (size - 1)) - 1
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=True)


def pixel_places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column of every pixel, float32 `[H, W]` each."""
    height, width = images.shape[-2:]
    down, across = torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32)
    return down[:, None].expand(height, width), across[None, :].expand(height, width)

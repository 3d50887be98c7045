"""Warps: a known rotation, scale and shift of each image, and where a place of the image lies in the warped one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.datasets.changes.changes import Change, affine
from hjepa_eval.datasets.changes.draws import Draws

# Degrees, log2 of the factor (0.7 to 1.3), and shifts to the right and down in parts of the image.
_LOW = (-30.0, -0.514573, -0.125, -0.125)
_HIGH = (30.0, 0.378512, 0.125, 0.125)


@dataclass(frozen=True)
class Warp(Change):
    """A rotation of up to 30 degrees, a factor of 0.7 to 1.3 and a shift of up to an eighth, drawn for each image."""

    name: str = "warp"

    def __post_init__(self) -> None:
        """Take it as it is: its name is no change of a profile's."""

    def parameters(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return degrees, log2 of the factor, and shifts right and down, float64 `[B, 4]`, by the images' numbers."""
        low, high = torch.tensor(_LOW), torch.tensor(_HIGH)
        numbers = Draws(self.seed, self.name, rows).uniform("parameters", len(low))
        return np.asarray((low + (high - low) * numbers).double().numpy())

    def apply(self, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return warped copies of uint8 images `[B, 3, S, S]`, whose edges are mirrored."""
        values = torch.from_numpy(self.parameters(rows)).to(torch.float32)
        degrees, factor = values[:, 0], torch.exp2(values[:, 1])
        warped = affine(images.to(torch.float32) / 255, degrees=degrees, scale=factor, shift=values[:, 2:])
        return (warped.clamp(0, 1) * 255).round().to(torch.uint8)

    def targets(self, places: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return where places of images lie in the warped ones, float64 `[B, T, 2]`, perhaps outside.

        Args:
            places: (row, column) in [0, 1], `[T, 2]`, the same of every image.
            rows: int64 `[B]`, the images' numbers.
        """
        values = self.parameters(rows)
        angle, factor = np.deg2rad(values[:, 0]), np.exp2(values[:, 1])
        cosine, sine = (factor * np.cos(angle))[:, None], (factor * np.sin(angle))[:, None]
        down, across = (places - 0.5).T[:, None]
        moved = np.stack([cosine * down - sine * across, sine * down + cosine * across], axis=-1)
        return np.asarray(0.5 + moved + values[:, None, 3:1:-1])

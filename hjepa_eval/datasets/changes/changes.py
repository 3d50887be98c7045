"""Changes of images: corruptions of five severities, and movements whose parameter is known, for whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.datasets.changes.corruptions import CORRUPTIONS, SEVERITIES
from hjepa_eval.datasets.changes.draws import Draws, gaussian_taps, pixel_places, sampled
from hjepa_eval.errors import unknown


@dataclass(frozen=True)
class Movement:
    """A change with numbers that say how much of it an image underwent.

    Attributes:
        parameters: names of the numbers.
        low: least value of each.
        high: largest value of each.
        apply: images `[B, 3, S, S]` and parameters float32 `[B, P]` to images.
    """

    parameters: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    apply: Callable[[Tensor, Tensor], Tensor]


def affine(images: Tensor, *, degrees: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images turned and scaled about their middle, then shifted by parts of their size; edges are mirrored."""
    size = images.shape[-1]
    rows, columns = pixel_places(images)
    middle = (size - 1) / 2
    down, across = (places - middle - size * shift[:, part, None, None] for part, places in ((1, rows), (0, columns)))
    angle, factor = torch.deg2rad(degrees)[:, None, None], scale[:, None, None]
    cosine, sine = torch.cos(angle) / factor, torch.sin(angle) / factor
    return sampled(images, middle + cosine * down + sine * across, middle + cosine * across - sine * down)


def _shift(images: Tensor, values: Tensor) -> Tensor:
    still = torch.zeros(len(images))
    return affine(images, degrees=still, scale=still + 1, shift=values)


def _rotate(images: Tensor, values: Tensor) -> Tensor:
    still = torch.zeros(len(images), 2)
    return affine(images, degrees=values[:, 0], scale=still[:, 0] + 1, shift=still)


def _scale(images: Tensor, values: Tensor) -> Tensor:
    still = torch.zeros(len(images), 2)
    return affine(images, degrees=still[:, 0], scale=torch.exp2(values[:, 0]), shift=still)


def _flip(images: Tensor, values: Tensor) -> Tensor:
    return torch.where(values[:, :, None, None] > 0, images.flip(-1), images)


def _hue(images: Tensor, values: Tensor) -> Tensor:
    """Return images whose colours turn about the grey axis by an angle in degrees, each by its own."""
    angle = torch.deg2rad(values[:, 0])
    cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    third, root = torch.full((3, 3), 1 / 3), math.sqrt(1 / 3)
    cross = torch.tensor([[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]])
    # Rodrigues' formula about (1, 1, 1) / sqrt(3).
    turn = cosine * torch.eye(3) + (1 - cosine) * third + sine * cross
    return torch.einsum("bcd,bdhw->bchw", turn, images)


def _blur(images: Tensor, values: Tensor) -> Tensor:
    """Return images blurred by Gaussians of sigma in parts of 1/32 of their size, each by its own."""
    radius = 4 * max(1, images.shape[-1] // 32)
    scale = images.shape[-1] / 32
    taps = torch.stack([gaussian_taps(scale * sigma, radius) for sigma in values[:, 0].tolist()])
    padded = torch.nn.functional.pad(images, (radius,) * 4, mode="reflect")
    count, channels = images.shape[:2]
    weights = taps.repeat_interleave(channels, dim=0)
    flat = padded.reshape(1, count * channels, *padded.shape[2:])
    down = torch.nn.functional.conv2d(flat, weights[:, None, :, None], groups=count * channels)
    both = torch.nn.functional.conv2d(down, weights[:, None, None, :], groups=count * channels)
    return both.reshape(images.shape)


MOVEMENTS = {
    "shift": Movement(("right", "down"), (-0.125, -0.125), (0.125, 0.125), _shift),
    "rotation": Movement(("degrees",), (-30.0,), (30.0,), _rotate),
    "scale": Movement(("log2 of the factor",), (-0.32,), (0.32,), _scale),
    "flip": Movement(("flipped",), (-1.0,), (1.0,), _flip),
    "hue": Movement(("degrees",), (-180.0,), (180.0,), _hue),
    "blur": Movement(("sigma",), (0.0,), (1.5,), _blur),
}


@dataclass(frozen=True)
class Change:
    """One change: the name of a corruption or a movement, and of a corruption its severity, 1 to 5."""

    name: str
    severity: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in (*CORRUPTIONS, *MOVEMENTS):
            raise unknown("change", self.name, [*CORRUPTIONS, *MOVEMENTS])
        if (self.name in CORRUPTIONS) != (self.severity in range(1, SEVERITIES + 1)):
            raise unknown(f"severity of {self.name}", str(self.severity), ["1", "2", "3", "4", "5"])

    def __str__(self) -> str:
        return self.name if self.severity is None else f"{self.name} {self.severity}"

    def parameters(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how much each image is moved, float64 `[B, P]`, by its number; of corruptions P is 0."""
        if self.name not in MOVEMENTS:
            return np.empty((len(rows), 0))
        movement = MOVEMENTS[self.name]
        low, high = torch.tensor(movement.low), torch.tensor(movement.high)
        numbers = Draws(self.seed, self.name, rows).uniform("parameters", len(low))
        values = low + (high - low) * numbers
        return np.asarray((values.sign() if self.name == "flip" else values).double().numpy())

    def apply(self, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Return changed copies of uint8 images `[B, 3, S, S]`; what is drawn belongs to each image, not to the batch.

        Args:
            images: square.
            rows: int64 `[B]`, their numbers in the data set.
        """
        given = images.to(torch.float32) / 255
        if self.severity is None:
            values = torch.from_numpy(self.parameters(rows)).to(torch.float32)
            changed = MOVEMENTS[self.name].apply(given, values)
            return (changed.clamp(0, 1) * 255).round().to(torch.uint8)
        changed = CORRUPTIONS[self.name](given, self.severity - 1, Draws(self.seed, str(self), rows))
        # The benchmark truncates; a value that is whole but for rounding must not lose one.
        return (changed.clamp(0, 1) * 255 + 1e-3).floor().clamp(max=255).to(torch.uint8)

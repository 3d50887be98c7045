"""The corruptions of CIFAR-10-C but frost, for whole batches, every image with random numbers of its own.

Parameters are those of the benchmark, made for images of 32 pixels; lengths grow with the image. Frost is left out: it
needs photographs of frost. Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019, and the authors' published `make_cifar_c.py`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hjepa_eval.datasets.changes.draws import (
    Draws,
    blurred,
    gaussian_blurred,
    gaussian_taps,
    pixel_places,
    sampled,
    zoomed,
)

# uint8 images [B, 3, S, S] as float32 in [0, 1], severity 0 to 4, random numbers -> float32, clipped by the caller
Corruption = Callable[[Tensor, int, Draws], Tensor]
_LUMA = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)


def _gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    return images + (0.04, 0.06, 0.08, 0.09, 0.10)[severity] * draws.normal("noise", *images.shape[1:])


def _shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Return counts of photons: Poisson of each of the 256 values a pixel can have, by the inverse of its sums."""
    from scipy.stats import poisson

    photons = (500, 250, 100, 75, 50)[severity]
    values = (images * 255).round().to(torch.int64).flatten().numpy()
    chances = draws.uniform("noise", *images.shape[1:]).flatten().numpy()
    order = np.argsort(values, kind="stable")
    ends = np.searchsorted(values[order], np.arange(257))
    counts = np.empty(len(values), dtype=np.float32)
    steps = np.arange(photons + 12 * math.isqrt(photons) + 20)
    for value in np.unique(values):
        part = order[ends[value] : ends[value + 1]]
        counts[part] = np.searchsorted(poisson.cdf(steps, value / 255 * photons), chances[part])
    return torch.from_numpy(counts).reshape(images.shape) / photons


def _impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    hit = draws.uniform("hit", *images.shape[1:]) <= share
    salt = (draws.uniform("salt", *images.shape[1:]) <= 0.5).to(images.dtype)
    return torch.where(hit, salt, images)


def _defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity]
    radius *= max(1, images.shape[-1] // 32)
    reach = math.ceil(radius) + 2
    steps = torch.arange(-reach, reach + 1)
    disc = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).to(images.dtype)
    kernel = blurred((disc / disc.sum())[None, None], gaussian_taps(alias, 1), mode="reflect")
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def _glass_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Return images whose pixels took the place of neighbours, between two blurs.

    As published, a pixel is overwritten by a neighbour rather than exchanged with it: the authors' exchange acts on
    views of one array.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity]
    pixels = (gaussian_blurred(images, sigma).clamp(0, 1) * 255).floor()
    size, everyone = images.shape[-1], torch.arange(len(images))
    for turn in range(rounds):
        # Moves of -1 or 0 in each direction.
        moves = (draws.uniform(f"moves {turn}", 2, size, size) < 0.5).to(torch.int64)
        for row in range(size - 1, 1, -1):
            for column in range(size - 1, 1, -1):
                down, across = moves[:, 0, row, column], moves[:, 1, row, column]
                pixels[:, :, row, column] = pixels[everyone, :, row - down, column - across]
    return gaussian_blurred(pixels / 255, sigma)


def _streaked(images: Tensor, *, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Return images smeared one way along a line at each one's own angle, by the half of a Gaussian."""
    weights = torch.exp(-0.5 * (torch.arange(2 * radius + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    angle = torch.deg2rad(degrees)[:, None, None]
    down, across = pixel_places(images)
    out = torch.zeros_like(images)
    for step, weight in enumerate(weights.tolist()):
        if weight < 1e-4:
            break
        rows = down + (step * torch.sin(angle) - 0.5).ceil()
        columns = across + (step * torch.cos(angle) - 0.5).ceil()
        last = images.shape[-1] - 1
        out += weight * sampled(images, rows.clamp(0, last), columns.clamp(0, last), nearest=True)
    return out


def _motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity]
    scale = max(1, images.shape[-1] // 32)
    return _streaked(images, radius=radius * scale, sigma=sigma * scale, degrees=draws.between("angle", -45, 45))


def _zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    factors = [1 + step / 100 for step in range((6, 11, 16, 21, 26)[severity])]
    return (images + sum(zoomed(images, factor) for factor in factors)) / (len(factors) + 1)


def _snow(images: Tensor, severity: int, draws: Draws) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity]
    size, scale = images.shape[-1], max(1, images.shape[-1] // 32)
    flakes = zoomed(mean + deviation * draws.normal("flakes", 1, size, size), zoom)
    flakes = (torch.where(flakes < threshold, 0, flakes).clamp(0, 1) * 255).floor() / 255
    angle = draws.between("angle", -135, -45)
    layer = _streaked(flakes, radius=radius * scale, sigma=sigma * scale, degrees=angle)
    grey = (images * _LUMA).sum(dim=1, keepdim=True)
    paler = kept * images + (1 - kept) * torch.maximum(images, 1.5 * grey + 0.5)
    return paler + layer + layer.flip(-1, -2)


def _fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity]
    size = images.shape[-1]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = _plasma(draws, size=1 << (size - 1).bit_length(), decay=decay)[:, None, :size, :size]
    return (images + amount * clouds) * brightest / (brightest + amount)


def _plasma(draws: Draws, *, size: int, decay: float) -> Tensor:
    """Return clouds between 0 and 1, float32 `[B, size, size]`, by the diamond-square algorithm on a torus."""
    clouds = torch.zeros(len(draws.rows), size, size)
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2

        def settled(total: Tensor, part: str, step: int = step, wobble: float = wobble) -> Tensor:
            noise = 2 * draws.uniform(f"{part} {step}", *total.shape[1:]) - 1
            return total / 4 + wobble * wobble * noise

        corners = clouds[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        clouds[:, half::step, half::step] = settled(pairs + pairs.roll(-1, 2), "middles")
        middles = clouds[:, half::step, half::step]
        beside = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        clouds[:, ::step, half::step] = settled(beside, "tops")
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        clouds[:, half::step, ::step] = settled(beside, "sides")
        step, wobble = half, wobble / decay
    low = clouds.amin(dim=(1, 2), keepdim=True)
    return (clouds - low) / (clouds.amax(dim=(1, 2), keepdim=True) - low)


def _brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Return images whose HSV value grew: hue and saturation stay, so all channels grow by one factor."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-9), raised)


def _contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    means = images.mean(dim=(2, 3), keepdim=True)
    return (images - means) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + means


def _elastic(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Return images under an affine map that moves three points, then under a smooth field of shifts."""
    size = images.shape[-1]
    shift, smooth, affine = (
        part * size
        for part in ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))[
            severity
        ]
    )
    middle, side = float(size // 2), float(size // 3)
    points = torch.tensor([[middle + side] * 2, [middle + side, middle - side], [middle - side] * 2])
    moved = points + affine * (2 * draws.uniform("affine", 3, 2) - 1)
    ones = torch.ones(len(images), 3, 1)
    # The map that takes each moved point back to where it was: pixels are read there.
    back = torch.linalg.solve(torch.cat([moved, ones], dim=2), points.expand(len(images), 3, 2))
    rows, columns = pixel_places(images)
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1) @ back[:, None]
    warped = sampled(images, places[..., 1], places[..., 0])
    if shift == 0:
        return warped
    field = 2 * draws.uniform("field", 2, size, size) - 1
    radius = min(size - 1, int(3 * smooth + 0.5))
    field = shift * blurred(field, gaussian_taps(smooth, radius), mode="reflect")
    return sampled(warped, rows + field[:, 1], columns + field[:, 0])


def _pictures(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images.dtype) / 255


def _pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    size = images.shape[-1]
    coarse = int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[severity])
    box = Image.Resampling.BOX
    return _pictures(images, lambda picture: picture.resize((coarse, coarse), box).resize((size, size), box))


def _jpeg(images: Tensor, severity: int, draws: Draws) -> Tensor:
    def coded(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity])
        return Image.open(file)

    return _pictures(images, coded)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "defocus-blur": _defocus_blur,
    "glass-blur": _glass_blur,
    "motion-blur": _motion_blur,
    "zoom-blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
SEVERITIES = 5

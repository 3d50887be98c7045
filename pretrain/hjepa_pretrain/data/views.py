"""From a uint8 batch to the views that a step works on, augmented as whole batches with a generator of their own."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hjepa_eval.datasets import transform as augment
from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import DRAWS, Crops, Transform
from hjepa_pretrain.config.settings import DataSettings

_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image.

    Attributes:
        crop_scale: smallest and largest share of the area that a crop keeps.
        crop_ratio: smallest and largest width / height of a crop, drawn log-uniformly.
        flip: whether half of the images are mirrored.
        jitter: strength of brightness, contrast, saturation (as torchvision) and hue (turns of the colour wheel).
        jitter_probability: share of images whose colours change.
        gray_probability: share of images that lose their colour.
        size: side of the result in pixels; that of the images when not given.
    """

    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    gray_probability: float = 0.2
    size: int | None = None


def crop_and_flip(images: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Return random crops of float images `[B, 3, H, H]`, resized to `[B, 3, size, size]`, half of them mirrored."""
    draws = torch.rand(DRAWS, len(images), generator=generator, device=images.device)
    crops = Crops(augmentation.crop_scale, augmentation.crop_ratio, augmentation.flip)
    return augment.crop_and_flip(images, crops, draws=draws, size=augmentation.size)


def jitter_colours(images: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Return float images `[B, 3, H, W]` in [0, 1] with random brightness, contrast, saturation, hue and gray.

    Hue turns the colours in the YIQ plane, which needs one 3x3 product where HSV needs branches.
    """
    batch, device = len(images), images.device
    draws = torch.rand(6, batch, 1, 1, 1, generator=generator, device=device)
    brightness, contrast, saturation, hue = augmentation.jitter
    luma = _yiq(device)[0][0].view(1, 3, 1, 1)

    def factor(index: int, strength: float) -> Tensor:
        return 1 + (2 * draws[index] - 1) * strength

    jittered = (images * factor(0, brightness)).clamp(0, 1)
    mean = (jittered * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    jittered = (mean + (jittered - mean) * factor(1, contrast)).clamp(0, 1)
    gray = (jittered * luma).sum(dim=1, keepdim=True)
    jittered = (gray + (jittered - gray) * factor(2, saturation)).clamp(0, 1)
    if hue:
        turn = _hue_rotation((2 * draws[3].flatten() - 1) * hue * 2 * math.pi)
        jittered = torch.einsum("bij,bjhw->bihw", turn, jittered).clamp(0, 1)
    result = torch.where(draws[4] < augmentation.jitter_probability, jittered, images)
    gray = (result * luma).sum(dim=1, keepdim=True)
    return torch.where(draws[5] < augmentation.gray_probability, gray, result)


def _hue_rotation(angles: Tensor) -> Tensor:
    """Return `[B, 3, 3]`, RGB to RGB, that turn the chroma of YIQ by `angles` `[B]` and keep the luma."""
    to_yiq, to_rgb = _yiq(angles.device)
    cosine, sine, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    turn = torch.stack((one, zero, zero, zero, cosine, -sine, zero, sine, cosine), dim=1).view(-1, 3, 3)
    return to_rgb @ turn @ to_yiq


@functools.cache
def _yiq(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `[3, 3]` from RGB to YIQ, whose first row is the luma, and back, float32 on a device.

    They are kept: each copy from the host's memory makes it wait for the device, as an inverse does there.
    """
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    to_rgb: Tensor = torch.linalg.inv(to_yiq)
    return to_yiq.float().to(device), to_rgb.float().to(device)


@dataclass(frozen=True)
class Views:
    """Normalised float views of the same images.

    Attributes:
        context: `[B, 3, S, S]`, what the context encoder sees parts of.
        target: `[B, 3, S, S]`, what the target encoder sees; same geometry as `context`, its own colours.
        others: `[V - 1, B, 3, S, S]`, other crops with other colours, the small ones last; or None.
    """

    context: Tensor
    target: Tensor
    others: Tensor | None


def make_views(images: Tensor, settings: DataSettings, transform: Transform, *, seed: int, number: int) -> Views:
    """Return the views of uint8 images `[B, 3, H, H]`, a function of (seed, number) alone.

    Deviation: RandomResizedCrop cuts from the original image; these crops are cut from the square that resizing the
    short side to `data.stored_size` and a centre crop left, so what lies outside that square is never seen, and a small
    crop is enlarged.

    Args:
        images: as they are stored, on any device; `H` much larger than `S` would alias.
        settings: augmentation.
        transform: its `size` is the side `S` of a view; mean and deviation normalise.
        seed: of the run.
        number: of the batch, which no other batch of the run has.
    """

    def normalise(view: Tensor) -> Tensor:
        return transform.normalise(view * 255)

    augmentation = Augmentation(
        crop_scale=settings.crop_scale,
        flip=settings.flip,
        jitter=settings.jitter,
        gray_probability=settings.gray,
        size=transform.size,
    )
    if settings.augmentation == "none":
        plain = transform.normalise(images)
        return Views(plain, plain, None)
    generator = seeded_generator(seed, number, "augmentation", images.device)
    pixels = images.float() / 255
    cropped = crop_and_flip(pixels, augmentation, generator=generator)
    target = normalise(cropped)
    if settings.augmentation == "light":
        return Views(target, target, None)
    context = normalise(jitter_colours(cropped, augmentation, generator=generator))
    if settings.augmentation == "asym":
        return Views(context, target, None)
    small = replace(augmentation, crop_scale=settings.local_scale)
    others = [
        normalise(jitter_colours(crop_and_flip(pixels, crops, generator=generator), crops, generator=generator))
        for crops in (augmentation, *[small] * settings.local_views)
    ]
    return Views(context, target, torch.stack(others))


def random_tokens(views: int, batch: int, num_patches: int, count: int, *, generator: torch.Generator) -> Tensor:
    """Return int64 `[views, batch, count]`: which tokens of other views are seen, a random choice for each."""
    scores = torch.rand(views, batch, num_patches, generator=generator, device=generator.device)
    return scores.topk(count, dim=-1).indices.sort(dim=-1).values

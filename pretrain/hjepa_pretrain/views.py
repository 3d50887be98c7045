"""From a uint8 batch to the views that a step works on: context, target, and a second view of the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_pretrain.augment import Augmentation, crop_and_flip, jitter_colours
from hjepa_pretrain.config import DataSettings


@dataclass(frozen=True)
class Views:
    """Normalised float views `[B, 3, S, S]` of the same images.

    Attributes:
        context: what the context encoder sees parts of.
        target: what the target encoder sees; same geometry as `context`, its own colours.
        second: another crop with other colours, or None.
    """

    context: Tensor
    target: Tensor
    second: Tensor | None


def make_views(images: Tensor, settings: DataSettings, transform: Transform, *, seed: int, step: int) -> Views:
    """Return the views of uint8 images `[B, 3, S, S]` at a `step`, a function of (seed, step) alone."""

    def normalise(view: Tensor) -> Tensor:
        return transform.normalise(view * 255)

    if settings.augmentation == "none":
        plain = transform.normalise(images)
        return Views(plain, plain, None)
    augmentation = Augmentation(
        crop_scale=settings.crop_scale,
        flip=settings.flip,
        jitter=settings.jitter,
        gray_probability=settings.gray,
    )
    generator = seeded_generator(seed, step, "augmentation", images.device)
    pixels = images.float() / 255
    cropped = crop_and_flip(pixels, augmentation, generator=generator)
    target = normalise(cropped)
    if settings.augmentation == "light":
        return Views(target, target, None)
    context = normalise(jitter_colours(cropped, augmentation, generator=generator))
    if settings.augmentation == "asym":
        return Views(context, target, None)
    other = crop_and_flip(pixels, augmentation, generator=generator)
    return Views(context, target, normalise(jitter_colours(other, augmentation, generator=generator)))


def random_tokens(batch: int, num_patches: int, count: int, *, generator: torch.Generator) -> Tensor:
    """Return int64 `[B, count]`: which tokens of a second view are seen, a random choice per image."""
    scores = torch.rand(batch, num_patches, generator=generator, device=generator.device)
    return scores.topk(count, dim=1).indices.sort(dim=1).values

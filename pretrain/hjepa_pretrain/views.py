"""From a uint8 batch to the views that a step works on: context, target, and other views of the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_pretrain.augment import Augmentation, crop_and_flip, jitter_colours
from hjepa_pretrain.config import DataSettings


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

"""Small crops at the size that they have in the image: nothing is enlarged, so a crop is a part, and knows where."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_pretrain.config.settings import DataSettings
from hjepa_pretrain.data.views import Augmentation, jitter_colours


def cut_crops(
    images: Tensor, settings: DataSettings, transform: Transform, *, seed: int, number: int
) -> tuple[Tensor, Tensor]:
    """Return crops of uint8 images `[B, 3, H, H]` and where they lie, a function of (seed, number) alone.

    Each crop is uniform among the places where it fits; half of them are mirrored, and the colours of each change as
    `data.jitter` and `data.gray` say.

    Args:
        images: as they are stored, on any device.
        settings: number and size of crops, and changes of colour.
        transform: its mean and deviation normalise.
        seed: of the run.
        number: of the batch, which no other batch of the run has.

    Returns:
        Normalised crops `[V, B, 3, S, S]`, and places `[V, B, 3]`: row and column in [-1, 1], the first and the last
        at which a crop fits, and 1 where it is mirrored, -1 where not.

    Source: EMP-SSL (Tong et al. 2023). Deviation: its crops are of a quarter of the area, enlarged to the image's size.
    """
    views, size, batch, device = settings.crops, settings.crop_size, len(images), images.device
    generator = seeded_generator(seed, number, "crops", device)
    free = images.shape[2] - size
    draws = torch.rand(3, views, batch, generator=generator, device=device)
    corners = (draws[:2] * (free + 1)).long().clamp_(max=free)
    mirrored = draws[2] < 0.5 if settings.flip else torch.zeros_like(draws[2], dtype=torch.bool)
    side = torch.arange(size, device=device)
    rows = corners[0].unsqueeze(-1) + side
    columns = corners[1].unsqueeze(-1) + torch.where(mirrored.unsqueeze(-1), size - 1 - side, side)
    number_of_image = torch.arange(batch, device=device).view(1, -1, 1, 1)
    pixels = images.permute(0, 2, 3, 1)[number_of_image, rows.unsqueeze(-1), columns.unsqueeze(-2)]
    crops = pixels.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    colours = Augmentation(jitter=settings.jitter, gray_probability=settings.gray)
    normalised = transform.normalise(jitter_colours(crops, colours, generator=generator) * 255)
    places = torch.stack((*(2 * corners / max(free, 1) - 1), mirrored * 2.0 - 1), dim=-1)
    return normalised.view(views, batch, 3, size, size), places

"""How an image becomes an encoder's input, and random crops and flips of whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hjepa_eval.datasets.randomness import derive_seed, uniform_rows
from hjepa_eval.machine.devices import send

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 5


@dataclass(frozen=True)
class Crops:
    """Which crops are drawn.

    Attributes:
        scale: smallest and largest share of the area that a crop keeps.
        ratio: smallest and largest width / height of a crop, drawn log-uniformly.
        flip: whether half of the images are mirrored.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True


def crop_and_flip(images: Tensor, crops: Crops, *, draws: Tensor, size: int | None = None) -> Tensor:
    """Return crops of float images `[B, C, S, S]`, resized to `size` (`S` when not given), half of them mirrored.

    Bilinear without antialiasing: a crop of an S x S image is never larger than S x S, so `S` much larger than `size`
    would alias.

    Args:
        images: on any device.
        crops: which crops.
        draws: uniform numbers in [0, 1), `[5, B]`: area, ratio, column, row, mirror.
    """
    # Two seconds, which who reads a complete store does not wait.
    import torch
    import torch.nn.functional as F

    low, high = crops.scale
    area = low + draws[0] * (high - low)
    ratio_low, ratio_high = (math.log(ratio) for ratio in crops.ratio)
    ratio = (ratio_low + draws[1] * (ratio_high - ratio_low)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if crops.flip else torch.ones_like(width)
    transform = images.new_zeros(len(images), 2, 3)
    transform[:, 0, 0], transform[:, 1, 1] = width * mirror, height
    transform[:, 0, 2] = (2 * draws[2] - 1) * (1 - width)
    transform[:, 1, 2] = (2 * draws[3] - 1) * (1 - height)
    shape = [*images.shape[:2], size or images.shape[2], size or images.shape[3]]
    grid = F.affine_grid(transform, shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class View:
    """One augmented pass over a dataset: what happens to an image depends on (seed, number, its index) alone.

    Deviation: RandomResizedCrop cuts from the original image; a view cuts from what the encoder's own resize and
    centre crop left, and rounds to uint8 again.

    Attributes:
        number: from 1; the plain pass is no view.
        seed: of the crops.
        crops: which crops are drawn.
    """

    number: int
    seed: int = 0
    crops: Crops = Crops()

    def identity(self) -> dict[str, Any]:
        """Return what tells the features of this view from those of others, as JSON values."""
        crops = {"scale": list(self.crops.scale), "ratio": list(self.crops.ratio), "flip": self.crops.flip}
        augmentation = {**crops, "of": "the resized image", "interpolation": "bilinear"}
        return {"number": self.number, "seed": self.seed, "augmentation": augmentation}

    def apply(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """Return the view of uint8 images `[B, 3, S, S]`, which stand at `indices` of the dataset, as uint8."""
        import torch

        key = derive_seed(self.seed, self.number, "crops of a view")
        rows = uniform_rows(key, np.asarray(indices, dtype=np.int64), columns=DRAWS)
        draws = send(torch.from_numpy(rows).T, images.device)
        return crop_and_flip(images.float(), self.crops, draws=draws).round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Transform:
    """How an image becomes the encoder's input: resize, crop the middle `size` x `size`, normalise.

    Attributes:
        size: rows of the input in pixels, and its columns unless `width` says otherwise.
        resize: before the crop, the short side in pixels; with `squash` and `border` what `crop` says.
        interpolation: `bilinear` or `bicubic`, antialiased.
        mean: per channel, for pixel values in [0, 1].
        std: per channel, for pixel values in [0, 1].
        crop: `center` keeps the ratio of sides and loses the ends of the long one; `squash` resizes both sides to
            `resize`; `border` resizes the long side to `resize` and fills the rest with the mean.
        width: columns of an input that is not square.
        resize_width: as `resize`, of the columns of an input that is not square.

    Source: timm, data/transforms_factory.py, `transforms_imagenet_eval`.
    """

    size: int
    resize: int
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop: str = "center"
    width: int | None = None
    resize_width: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the input."""
        return self.size, self.width or self.size

    @property
    def scaled(self) -> tuple[int, int]:
        """Rows and columns that the resize aims at."""
        return self.resize, self.resize_width or self.resize

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images `[B, 3, H, W]` as float32, scaled to [0, 1], minus the mean, over the deviation."""
        mean, std = (_per_channel(values, images) for values in (self.mean, self.std))
        return (images.float() / 255 - mean) / std


def resized_shape(height: int, width: int, transform: Transform) -> tuple[int, int]:
    """Return rows and columns to which an image of `height` x `width` is resized before the crop.

    Like torchvision the long side is truncated, and like timm it is rounded where torchvision has no such resize: for
    borders, and for inputs that are not square.
    """
    rows, columns = transform.scaled
    if transform.crop == "squash":
        return rows, columns
    if transform.crop == "center" and rows == columns:
        return (rows, int(rows * width / height)) if height <= width else (int(rows * height / width), rows)
    ratios = height / rows, width / columns
    ratio = max(ratios) if transform.crop == "border" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def seen_part(height: int, width: int, transform: Transform) -> tuple[float, float, float, float]:
    """Return top, left, bottom and right of what an encoder sees of an image, in pixels of that image.

    With `border` it sees more than the image. Of an image more than 64 times as long as wide it is not exact.
    """
    if (height, width) == transform.shape == transform.scaled:
        return 0.0, 0.0, float(height), float(width)
    sides = []
    resized_sides = resized_shape(height, width, transform)
    for length, resized, size in zip((height, width), resized_sides, transform.shape, strict=True):
        # torchvision pads what is too small by half of the lack on this side, and cuts from the rounded middle.
        start = round((resized - size) / 2) if resized >= size else -((size - resized) // 2)
        sides.append((start * length / resized, (start + size) * length / resized))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _per_channel(values: tuple[float, float, float], images: Tensor) -> Tensor:
    """Return float32 `[1, 3, 1, 1]` on the images' device, filled there: a copy from the host would wait for it."""
    import torch

    filled = [torch.full((1, 1, 1), value, dtype=torch.float32, device=images.device) for value in values]
    return torch.stack(filled, dim=1)

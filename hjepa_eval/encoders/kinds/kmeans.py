"""k-means on image patches: the baseline that any learned encoder has to beat.

Every 6x6 patch of an image is normalised, whitened and compared with K centroids; it activates those that are nearer
than the average one. Activations are summed over the image's four quadrants; of each sum the root is taken, and
standardised. No gradient, no label.

Measured on CIFAR-10, 50,000 train and 10,000 test images, seeds 0 and 1: kNN (k = 20) 61.2 and 60.7 %, logistic
regression 66.2 and 67.2 %; raw pixels 36.3 and 41.4 %. `hjepa knn --model kmeans` took 111 CPU-seconds from JPEG files
to the accuracy, 12 of them for the fit and 63 for the features; 107 s by the clock, on 2 cores shared with others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.images import image_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.fitted import (
    CONTRAST,
    draw_patches,
    fitted_tensors,
    kmeans,
    normalise_contrast,
    whitening,
)
from hjepa_eval.encoders.kinds.pixels import cell_levels, pyramid, read_cells
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import DataError, EncoderError, first_few

# Of the fit; another number is another encoder.
VERSION = 1
CENTROIDS, PATCH, SIZE = 128, 6, 32
FIT_IMAGES, FIT_PATCHES = 5_000, 100_000
# Large images, and large patches, are fewer: that many numbers at most.
_FIT_PIXELS, _FIT_NUMBERS = 2**28, 2**25
# Numbers in a map of distances: a few megabytes stay in the processor's cache.
_CHUNK = 2**21
_TENSORS = ("filters", "offset", "centroids", "mean", "deviation")


class KMeans(Encoder):
    """Activations of patch centroids, one token of `4 * K` numbers: quadrants row by row, K each.

    The quadrants are one token, as in the source, so that the default readout keeps them apart.

    Source: Coates, Lee and Ng, AISTATS 2011, section 3.1.2 ("triangle" activation) and 3.2 (extraction at every pixel,
    sums over quadrants); standardised as in the authors' demonstration.

    Deviation: the source takes the sums as they are; their roots are worth half a point to one of kNN accuracy and
    nothing to logistic regression. K is 128 by default where the source goes up to 4,000 (79.6 %, with a support vector
    machine). Mean and deviation are those over the images of the fit. More is said at `whitening` and `kmeans`.
    """

    filters: Tensor
    offset: Tensor
    centroids: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], *, size: int, settings: dict[str, Any], cells: int = 0) -> None:
        """Take what `fit_kmeans` found.

        Args:
            tensors: `filters` [R, 3, P, P] and `offset` [R] normalise and whiten, `centroids` [K, R], `mean` and
                `deviation` [4 * K] of the sums' roots.
            size: of the images in pixels.
            settings: the recipe of the fit.
            cells: rows of cells whose mean activations are tokens, instead of the quadrants' sums; 0 for those.
        """
        super().__init__()
        for name in _TENSORS:
            self.register_buffer(name, tensors[name])
        count = len(self.centroids)
        self.name = "kmeans"
        quadrants = (Level(0, f"{count} centroids, 2x2 quadrants", 4 * count, (1, 1)),)
        self.levels = cell_levels(cells, count, f"{count} centroids") if cells else quadrants
        self.cells = cells
        self.transform = Transform(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.settings = {**settings, "cells": cells} if cells else settings

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, 1, 4 * K]` for images `[B, 3, S, S]` in [0, 1], or cells' `[B, T, K]`; always in float32."""
        if self.cells:
            return self._maps(images)
        # The distances are small differences of large numbers, of which bfloat16 would leave nothing.
        with torch.autocast(images.device.type, enabled=False):
            sums = quadrant_sums(images.float(), self.filters, self.offset, self.centroids)
        return [((sums.sqrt() - self.mean) / self.deviation).unsqueeze(1)]

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the mean activations of cells, `[B, T, K]` for each level; a patch belongs to its middle's cell."""
        patch, size = self.filters.shape[-1], images.shape[-1]
        middle = torch.arange(size - patch + 1, device=images.device) + patch / 2
        side = F.one_hot((middle * self.cells / size).long(), self.cells).float()
        with torch.autocast(images.device.type, enabled=False):
            sums = region_sums(
                images.float(), self.filters, self.offset, self.centroids, side / side.sum(0).clamp(min=1)
            )
        maps = sums.transpose(1, 2).reshape(len(images), -1, self.cells, self.cells)
        return pyramid(maps, self.levels)


def triangle(distances: Tensor) -> Tensor:
    """Return max(0, mean - distance) `[B, K, N]`, the mean over the K distances, for distances `[B, K, N]`.

    Source: Coates, Lee and Ng, AISTATS 2011, section 3.1.2.
    """
    return (distances.mean(1, keepdim=True) - distances).clamp_min_(0)


def quadrant_sums(images: Tensor, filters: Tensor, offset: Tensor, centroids: Tensor) -> Tensor:
    """Return the activations `[B, 4 * K]` of centroids `[K, R]`, summed over quadrants, for images `[B, 3, S, S]`.

    A patch less its mean m, over its deviation s, times a whitening direction is (patch . w - m * sum(w)) / s. With
    sum(w) = 0, folded into the filter, whitening is a convolution, divided by a map of deviations.
    """
    cells = images.shape[-1] - filters.shape[-1] + 1
    half = (cells + 1) // 2
    side = torch.zeros(cells, 2, device=images.device)
    side[:half, 0], side[half:, 1] = 1, 1
    return region_sums(images, filters, offset, centroids, side).flatten(1)


def region_sums(images: Tensor, filters: Tensor, offset: Tensor, centroids: Tensor, side: Tensor) -> Tensor:
    """Return the activations of centroids, summed over R x R regions with weights, `[B, R * R, K]`.

    Args:
        images: `[B, 3, S, S]`.
        filters: as `quadrant_sums`.
        offset: as `quadrant_sums`.
        centroids: as `quadrant_sums`.
        side: `[positions, R]`, the weight of each row of positions, and of each column, in each row of regions.
    """
    patch, cells = filters.shape[-1], len(side)
    regions = torch.einsum("ir,jc->ijrc", side, side).reshape(cells * cells, -1)
    squares = centroids.square().sum(1)[:, None]
    sums = []
    for part in torch.split(images, max(1, _CHUNK // (cells * cells * len(centroids)))):
        white = F.conv2d(part, filters).div_(_deviations(part, patch)).sub_(offset[:, None, None]).flatten(2)
        distances = (centroids * -2 @ white).add_(squares).add_(white.square().sum(1, keepdim=True))
        activations = triangle(distances.clamp_min_(0).sqrt_())
        sums.append((activations @ regions).transpose(1, 2))
    return torch.cat(sums)


def _deviations(images: Tensor, patch: int) -> Tensor:
    """Return what `normalise_contrast` divides each patch by, `[B, 1, cells, cells]`."""
    count = images.shape[1] * patch * patch
    mean = F.avg_pool2d(images.mean(1, keepdim=True), patch, 1)
    square = F.avg_pool2d(images.square().mean(1, keepdim=True), patch, 1)
    return ((square - mean.square()).clamp_min_(0) * (count / (count - 1)) + CONTRAST).sqrt_()


def fit_kmeans(images: Tensor, *, centroids: int, patch: int, seed: int) -> dict[str, Tensor]:
    """Return the tensors of `KMeans` for uint8 images `[N, 3, S, S]`; the same seed gives the same tensors.

    Another number of threads adds up in another order, and so may change the last bits, and with them the identity.

    Raises:
        EncoderError: there are more centroids than patches.
    """
    generator = seeded_generator(seed, 0, "kmeans patches")
    total = min(FIT_PATCHES, _FIT_NUMBERS // (3 * patch * patch))
    drawn = draw_patches(images, patch=patch, per_image=-(-total // len(images)), generator=generator)
    if len(drawn) < centroids:
        raise EncoderError(
            f"kmeans:{centroids} has more centroids than the {len(drawn):,} patches that it is fitted on"
        )
    patches = normalise_contrast(drawn)
    mean, directions = whitening(patches)
    found = kmeans((patches - mean) @ directions, count=centroids, generator=generator)
    filters = (directions - directions.mean(0)).T.reshape(-1, 3, patch, patch).contiguous()
    offset = mean @ directions
    sums = [quadrant_sums(part.float() / 255, filters, offset, found) for part in torch.split(images, 256)]
    roots = torch.cat(sums).sqrt()
    deviation = torch.sqrt(roots.var(0, correction=0) + 0.01)
    return dict(zip(_TENSORS, (filters, offset, found, roots.mean(0), deviation), strict=True))


def load_kmeans(
    argument: str,
    options: Mapping[str, str],
    *,
    seed: int,
    train_images: Callable[[], ImageDataset] | None,
    cache_dir: Path | None,
) -> Encoder:
    """Return `kmeans` or `kmeans:K`, fitted on at most 5,000 train images drawn by the seed, or kept from before.

    They are drawn from all of the train split, also where a probe is asked for fewer images. Images that cannot be read
    are left out of the fit; whether that is an error is the extraction's to say.

    Args:
        argument: K, or nothing for 128.
        options: `patch` and `size`, in pixels, and `cells`, rows of tokens.
        seed: of the images and patches drawn, and of the centroids' beginning.
        train_images: gives the train split; no label is read.
        cache_dir: where fits are kept.

    Raises:
        EncoderError: a number is none or out of range, or there are no train images.
        DataError: none of the images drawn can be read.
    """
    centroids = _number(f"kmeans:{argument}", argument, CENTROIDS, least=2)
    size = _number(f"kmeans?size={options.get('size')}", options.get("size", ""), SIZE, least=3)
    patch = _number(f"kmeans?patch={options.get('patch')}", options.get("patch", ""), PATCH, least=2)
    cells = read_cells(options, size=size, spec="kmeans")
    if patch >= size:
        raise EncoderError(
            f"kmeans: a patch of {patch} pixels has no two places in an image of {size}; give ?patch= less"
        )
    if train_images is None:
        raise EncoderError(
            "kmeans needs a dataset: it is fitted on train images, and none are given here; "
            "ask hjepa extract, knn or linear for it, with --dataset"
        )
    dataset = train_images()
    recipe = {
        "kmeans": VERSION,
        "centroids": centroids,
        "patch": patch,
        "size": size,
        "seed": seed,
        "train": dataset.fingerprint,
        "images": [_fit_images(len(dataset), size=size), len(dataset)],
        "patches": FIT_PATCHES,
    }

    def fit() -> dict[str, Tensor]:
        images = _drawn_images(dataset, size=size, seed=seed)
        return fit_kmeans(images, centroids=centroids, patch=patch, seed=seed)

    tensors = fitted_tensors(recipe, fit, cache_dir=cache_dir)
    return KMeans(tensors, size=size, settings=recipe, cells=cells)


def _number(where: str, text: str, default: int, *, least: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise EncoderError(f"{where}: expected a number from {least}, such as {default}")
    return int(text)


def _fit_images(available: int, *, size: int) -> int:
    return min(available, FIT_IMAGES, max(1, _FIT_PIXELS // (3 * size * size)))


def _drawn_images(dataset: ImageDataset, *, size: int, seed: int) -> Tensor:
    """Return at most 5,000 of the images, uint8 `[N, 3, size, size]`."""
    order = torch.randperm(len(dataset), generator=seeded_generator(seed, 0, "kmeans images"))
    indices = order[: _fit_images(len(dataset), size=size)].tolist()
    images: list[Tensor] = []
    reasons: list[str] = []
    batches = image_batches(dataset, Transform(size, size), indices=indices, batch_size=256, workers=2, skip_bad=True)
    for batch, _, skipped in batches:
        images.append(batch)
        reasons += skipped.values()
    if len(reasons) == len(indices):
        raise DataError(
            f"{dataset.name}: none of the images that kmeans is fitted on can be read: {first_few(reasons)}"
        )
    return torch.cat(images)

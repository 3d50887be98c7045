from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.evaluation.gallery.gallery import thumbnail, thumbnails


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_thumbnails__of_small_images_are_the_images() -> None:
    digits = load_dataset("digits", "test")
    made = thumbnails(digits, [7, 3, 7], workers=2)
    assert list(made) == [3, 7]
    for place, content in made.items():
        assert opened(content).format == "PNG"
        assert (np.asarray(opened(content)) == digits.image(place).permute(1, 2, 0).numpy()).all()


def test_thumbnails__of_photographs_are_jpeg_near_the_image(cifar10_sample) -> None:
    photos = load_dataset("cifar10", "train", root=cifar10_sample.parent)
    for place, content in thumbnails(photos, range(20), workers=2).items():
        picture = opened(content)
        assert picture.format == "JPEG"
        assert picture.size == (32, 32)
        difference = np.asarray(picture).astype(float) - photos.image(place).permute(1, 2, 0).numpy()
        assert np.abs(difference).mean() < 8


@pytest.mark.parametrize(
    ("shape", "size"),
    [((48, 128), (64, 24)), ((128, 48), (24, 64)), ((64, 64), (64, 64)), ((65, 2), (2, 64)), ((5000, 1), (1, 64))],
)
def test_thumbnails__have_at_most_64_pixels_on_the_longer_side(shape: tuple, size: tuple) -> None:
    image = torch.arange(3 * shape[0] * shape[1]).reshape(3, *shape).remainder(251).to(torch.uint8)
    assert opened(thumbnail(image)).size == size


def test_thumbnails__shrink_without_moving_colours() -> None:
    image = torch.zeros(3, 256, 256, dtype=torch.uint8)
    image[0, :, :128] = 200
    image[2, 128:] = 90
    small = np.asarray(opened(thumbnail(image))).astype(int)
    assert small[8, 8] == pytest.approx([200, 0, 0], abs=3)
    assert small[56, 56] == pytest.approx([0, 0, 90], abs=3)
    assert small[56, 8] == pytest.approx([200, 0, 90], abs=3)

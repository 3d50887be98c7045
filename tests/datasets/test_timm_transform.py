"""Images are prepared as timm prepares them: every crop mode, square or not, whatever the image's sides."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hjepa_eval.datasets.images import fit
from hjepa_eval.encoders.kinds.timm_network import timm_transform
from hjepa_eval.errors import EncoderError

SIZES = 200


class Configured:
    """What timm's own transform and ours read of a model."""

    def __init__(self, **config: object) -> None:
        usual = {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"}
        self.pretrained_cfg = {**usual, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), **config}


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Smooth shapes and noise, as photographs have."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((width, height))
    noise = random.normal(0, 12, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"interpolation": "bilinear", "crop_pct": 0.9},
        {"crop_mode": "squash", "crop_pct": 1.0},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"input_size": (3, 64, 48)},
        {"input_size": (3, 64, 48), "crop_mode": "squash", "crop_pct": 1.0},
        {"input_size": (3, 40, 64), "crop_mode": "border"},
        {"crop_pct": 1.15},
    ],
    ids=str,
)
def test_timm_transform__gives_timms_own_pixels_for_200_odd_sizes(config: dict) -> None:
    model = Configured(**config)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    transform = timm_transform(model, name="made")
    sides = np.random.default_rng(0).integers(50, 200, (SIZES, 2))
    for seed, (height, width) in enumerate(sides):
        image = picture(int(height), int(width), seed)
        pixels = fit(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), transform)
        ours = transform.normalise(pixels[None])[0]
        assert ours.shape == (3, *transform.shape)
        # Pillow 13 resizes the rows of tall images first, and rounds between: a quarter of the values is a step of
        # 1/255 away, which is 0.013 to 0.02 here. A shift by one pixel gives 0.1 and more.
        allowed = 1e-3 if height <= width else 8e-3
        assert (ours - theirs(image)).abs().mean() < allowed, (height, width)


def test_timm_transform__what_is_not_offered_is_refused() -> None:
    for config in ({"input_size": (1, 64, 64)}, {"interpolation": "nearest"}):
        with pytest.raises(EncoderError, match="only RGB, bilinear and bicubic"):
            timm_transform(Configured(**config), name="made")

from __future__ import annotations

from typing import Any

import torch
from hjepa_pretrain.config.settings import DataSettings
from hjepa_pretrain.data.crops import cut_crops
from torch import Tensor

from hjepa_eval.datasets.transform import Transform

TRANSFORM = Transform(size=9, resize=9, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def images(count: int = 40, side: int = 9) -> Tensor:
    """Return images whose pixels tell image, row and column."""
    shape = (count, side, side)
    parts = (torch.arange(count).view(-1, 1, 1), torch.arange(side).view(1, -1, 1), torch.arange(side).view(1, 1, -1))
    return torch.stack([part.expand(shape) for part in parts], dim=1).to(torch.uint8)


def cut(*, number: int = 0, seed: int = 0, **changes: Any) -> tuple[Tensor, Tensor]:
    plain = {"crops": 6, "crop_size": 4, "jitter": (0.0, 0.0, 0.0, 0.0), "gray": 0.0, **changes}
    return cut_crops(images(), DataSettings(augmentation="crops", **plain), TRANSFORM, seed=seed, number=number)


def test_crops__are_parts_of_their_image_at_its_size_where_their_places_say() -> None:
    crops, places = cut()
    pixels = (crops * 255).round()
    assert crops.shape == (6, 40, 3, 4, 4)
    assert (pixels[:, :, 0] == torch.arange(40.0).view(1, -1, 1, 1)).all()
    corners = (places[..., :2] + 1) / 2 * 5  # A side of 9 has 6 places for 4 pixels.
    side = torch.arange(4.0)
    torch.testing.assert_close(pixels[:, :, 1, :, 0], corners[..., :1] + side)
    columns = corners[..., 1:] + torch.where(places[..., 2:] > 0, side.flip(0), side)
    torch.testing.assert_close(pixels[:, :, 2, 0], columns)
    assert corners.min() == 0
    assert corners.max() == 5
    assert 0.3 < (places[..., 2] > 0).float().mean() < 0.7


def test_crops__are_a_function_of_seed_and_number() -> None:
    first, places = cut(number=3)
    again, same = cut(number=3)
    assert torch.equal(first, again)
    assert torch.equal(places, same)
    for other in (cut(number=4), cut(number=3, seed=1)):
        assert not torch.equal(first, other[0])


def test_crops__are_mirrored_or_change_colours_only_when_asked() -> None:
    assert (cut(flip=False)[1][..., 2] == -1).all()
    plain, coloured = cut()[0], cut(jitter=(0.4, 0.4, 0.2, 0.1))[0]
    assert not torch.equal(plain, coloured)
    assert (cut(gray=1.0)[0].std(dim=2) < 1e-6).all()


def test_crops__of_the_whole_image_have_one_place() -> None:
    crops, places = cut(crop_size=9, flip=False)
    torch.testing.assert_close((crops[0] * 255).round(), images().float())
    assert (places == -1).all()

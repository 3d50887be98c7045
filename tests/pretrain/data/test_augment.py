from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.config.settings import DataSettings
from hjepa_pretrain.data.views import Augmentation, crop_and_flip, jitter_colours, make_views, random_tokens

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.transform import Transform

TRANSFORM = Transform(size=8, resize=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits(count: int = 64) -> torch.Tensor:
    dataset = load_dataset("digits", "train")
    return torch.stack([dataset.image(index) for index in range(count)])


def test_crop__of_the_whole_image_without_flip_changes_nothing() -> None:
    whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    images = digits().float()
    torch.testing.assert_close(crop_and_flip(images, whole, generator=generator()), images, atol=1e-3, rtol=0)


def test_crop__half_of_the_images_are_mirrored() -> None:
    flips = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    images = digits(512).float()
    views = crop_and_flip(images, flips, generator=generator())
    same = torch.tensor([torch.allclose(a, b, atol=1e-3) for a, b in zip(views, images, strict=True)])
    mirrored = torch.tensor([torch.allclose(a, b.flip(-1), atol=1e-3) for a, b in zip(views, images, strict=True)])
    assert (same | mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_crop__stays_inside_the_image_and_keeps_the_asked_share() -> None:
    rows = torch.arange(32.0).view(1, 1, 32, 1).expand(256, 1, 32, 32)
    columns = torch.arange(32.0).view(1, 1, 1, 32).expand(256, 1, 32, 32)
    crops = crop_and_flip(
        torch.cat((rows, columns), dim=1), Augmentation(crop_scale=(0.3, 0.6), flip=False), generator=generator()
    )
    height = (crops[:, 0, -1, 0] - crops[:, 0, 0, 0] + 1) / 32
    width = (crops[:, 1, 0, -1] - crops[:, 1, 0, 0] + 1) / 32
    assert (height * width).min() > 0.25
    assert (height * width).max() < 0.65
    assert crops.min() >= 0
    assert crops.max() <= 31


def test_jitter__stays_in_range_and_differs_between_images() -> None:
    images = torch.full((64, 3, 4, 4), 0.5)
    images[:, 0] = 0.8
    views = jitter_colours(images, Augmentation(), generator=generator())
    assert views.min() >= 0
    assert views.max() <= 1
    assert len(torch.unique(views.flatten(1), dim=0)) > 40
    assert (views.std(dim=1).amax(dim=(1, 2)) < 1e-6).float().mean() == pytest.approx(0.2, abs=0.12)


def test_jitter__of_strength_zero_changes_nothing() -> None:
    images = torch.rand(8, 3, 4, 4)
    none = Augmentation(jitter=(0.0, 0.0, 0.0, 0.0), gray_probability=0.0)
    torch.testing.assert_close(jitter_colours(images, none, generator=generator()), images)


def test_jitter__hue_turns_the_chroma_and_keeps_the_luma() -> None:
    # Nearly gray, so that no colour is turned out of [0, 1].
    images = 0.5 + 0.1 * (torch.rand(64, 3, 4, 4, generator=generator()) - 0.5)
    hue = Augmentation(jitter=(0.0, 0.0, 0.0, 0.5), jitter_probability=1.0, gray_probability=0.0)
    turned = jitter_colours(images, hue, generator=generator())
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((turned * luma).sum(dim=1), (images * luma).sum(dim=1))
    assert ((turned - images).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean() > 0.8
    none = Augmentation(jitter=(0.0, 0.0, 0.0, 1e-9), jitter_probability=1.0, gray_probability=0.0)
    torch.testing.assert_close(jitter_colours(images, none, generator=generator()), images)


@pytest.mark.parametrize("mode", ["none", "light", "asym", "asym+global"])
def test_views__are_a_function_of_seed_and_step(mode: str) -> None:
    settings = DataSettings(augmentation=mode)
    images = digits()
    first, again, later = (make_views(images, settings, TRANSFORM, seed=1, number=number) for number in (5, 5, 6))
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.context, later.context) == (mode == "none")
    assert (first.others is not None) == (mode == "asym+global")
    assert torch.equal(first.context, first.target) == (mode in ("none", "light"))
    if mode == "none":
        torch.testing.assert_close(first.context, TRANSFORM.normalise(images))


def test_random_tokens__are_distinct_and_differ_between_images() -> None:
    tokens = random_tokens(2, 16, 16, 6, generator=generator())
    assert tokens.shape == (2, 16, 6)
    assert all(len(set(row)) == 6 for row in tokens.flatten(0, 1).tolist())
    assert len(torch.unique(tokens.flatten(0, 1), dim=0)) > 20

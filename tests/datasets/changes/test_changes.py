from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hjepa_eval.datasets.changes.changes import MOVEMENTS, Change
from hjepa_eval.datasets.changes.corruptions import CORRUPTIONS
from hjepa_eval.datasets.changes.draws import Draws, zoomed
from hjepa_eval.datasets.named.digits import Digits
from hjepa_eval.errors import UnknownNameError

ALL = [(name, severity) for name in CORRUPTIONS for severity in (1, 5)] + [(name, None) for name in MOVEMENTS]


def pictures(count: int = 6, size: int = 32) -> Tensor:
    """Return smooth colour pictures with an edge, uint8 `[count, 3, size, size]`."""
    rows, columns = np.mgrid[:size, :size] / size
    waves = [np.sin(3 * rows + index) + np.cos((2 + index) * columns) for index in range(count * 3)]
    values = np.stack(waves).reshape(count, 3, size, size)
    values[:, :, size // 3 :, size // 2 :] += 1
    return torch.from_numpy((60 * (values + 1.8)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_change__of_an_image_does_not_depend_on_its_batch(name: str, severity: int | None) -> None:
    images, change = pictures(), Change(name, severity)
    whole = change.apply(images, np.arange(6))
    assert torch.equal(change.apply(images[4:], np.arange(4, 6)), whole[4:])
    assert torch.equal(change.apply(images, np.arange(6)), whole)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert not torch.equal(whole, images)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption__hurts_more_when_it_is_more_severe(name: str) -> None:
    images = pictures(8)
    error = [(Change(name, s).apply(images, np.arange(8)).float() - images).square().mean() for s in (1, 3, 5)]
    # Elastic's strongest severities bend more and shift less, by the benchmark's own parameters.
    assert error[0] < error[2] if name != "elastic" else min(error) > 0


def test_noise__has_the_published_deviation_and_counts_of_photons() -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = Change("gaussian-noise", 3).apply(grey, np.arange(40)).double() / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.02)
    shots = Change("shot-noise", 5).apply(grey, np.arange(40)).double() / 255
    assert shots.mean() == pytest.approx(128 / 255, abs=0.005)
    assert shots.std() == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.03)
    salted = Change("impulse-noise", 5).apply(grey, np.arange(40))
    assert ((salted == 0) | (salted == 255)).double().mean() == pytest.approx(0.07, rel=0.05)


def test_brightness__raises_the_value_of_hsv() -> None:
    images = pictures(1)
    raised = Change("brightness", 2).apply(images, np.arange(1))
    for row, column in ((3, 5), (20, 25), (30, 1)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[0, :, row, column].double() / 255).tolist())
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.1))) * 255
        assert np.abs(raised[0, :, row, column].numpy() - wanted).max() <= 1.01


def test_contrast_pixelate_and_zoom__by_other_means() -> None:
    images = pictures(2)
    flat = Change("contrast", 5).apply(images, np.arange(2)).double()
    means = images.double().mean(dim=(2, 3), keepdim=True)
    assert (flat - ((images - means) * 0.15 + means)).abs().max() <= 1.01
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    coarse = picture.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    pixelated = Change("pixelate", 5).apply(images, np.arange(2))[0].permute(1, 2, 0).numpy()
    assert np.abs(pixelated.astype(int) - np.asarray(coarse).astype(int)).max() <= 1
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    inner = zoomed(ramp, 1.5)
    assert inner.shape == ramp.shape
    assert (inner[0, 0, 0].diff() / ramp[0, 0, 0].diff()).mean() == pytest.approx(1 / 1.5, rel=0.05)


def test_movements__of_nothing_change_nothing_and_known_ones_are_exact() -> None:
    images = pictures(3).float() / 255
    for name in ("shift", "rotation", "scale", "hue", "blur"):
        still = torch.zeros(3, len(MOVEMENTS[name].low))
        torch.testing.assert_close(MOVEMENTS[name].apply(images, still), images, atol=2e-5, rtol=0)
    right = MOVEMENTS["shift"].apply(images, torch.tensor([[2 / 32, 0.0]] * 3))
    torch.testing.assert_close(right[..., 2:], images[..., :-2], atol=2e-5, rtol=0)
    quarter = MOVEMENTS["rotation"].apply(images, torch.tensor([[90.0]] * 3))
    assert min((quarter - images.rot90(turns, (2, 3))).abs().max() for turns in (1, 3)) < 2e-4
    assert torch.equal(MOVEMENTS["flip"].apply(images, torch.tensor([[1.0], [-1.0], [1.0]]))[1], images[1])
    third = MOVEMENTS["hue"].apply(images, torch.tensor([[120.0]] * 3))
    torch.testing.assert_close(third, images[:, [2, 0, 1]], atol=1e-5, rtol=0)


def test_parameters__lie_in_their_range_and_belong_to_images() -> None:
    change = Change("shift")
    values = change.parameters(np.arange(500))
    assert values.shape == (500, 2)
    assert np.abs(values).max() <= 0.125
    assert np.abs(values.mean(axis=0)).max() < 0.01
    assert np.array_equal(change.parameters(np.array([7, 3])), values[[7, 3]])
    assert not np.array_equal(Change("shift", seed=1).parameters(np.arange(500)), values)
    assert set(Change("flip").parameters(np.arange(50))[:, 0]) == {-1.0, 1.0}
    assert Change("fog", 2).parameters(np.arange(5)).shape == (5, 0)


def test_draws__are_even_and_normal() -> None:
    draws = Draws(0, "test", np.arange(2000))
    numbers = draws.uniform("a", 20)
    assert 0 < numbers.min() < numbers.max() < 1
    assert torch.histc(numbers, 10, 0, 1).std() / 4000 < 0.03
    normal = draws.normal("a", 20)
    assert (float(normal.mean()), float(normal.std())) == (pytest.approx(0, abs=0.02), pytest.approx(1, rel=0.02))


@pytest.mark.parametrize("wrong", [("fogg", 1), ("fog", None), ("fog", 6), ("shift", 2)])
def test_change__unknown_names_and_severities_are_named(wrong: tuple[str, int | None]) -> None:
    with pytest.raises(UnknownNameError):
        Change(*wrong)


def test_change__small_images_are_taken_too() -> None:
    digits = Digits("test")
    images = torch.stack([digits.image(index) for index in range(4)]).repeat_interleave(4, 2).repeat_interleave(4, 3)
    for name in CORRUPTIONS:
        assert Change(name, 4).apply(images, np.arange(4)).shape == images.shape

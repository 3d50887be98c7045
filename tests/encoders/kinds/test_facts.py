from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds.facts import FACTS, image_facts, lab
from hjepa_eval.errors import EncoderError


def fact(images: Tensor, name: str) -> Tensor:
    return image_facts(images)[:, FACTS.index(name)]


def stripes(angle: float, *, size: int = 64, period: float = 8) -> Tensor:
    """Return a grating whose brightness changes along `angle` degrees from the columns' axis."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = columns * math.cos(math.radians(angle)) + rows * math.sin(math.radians(angle))
    wave = 0.5 + 0.4 * torch.sin(2 * math.pi * along / period)
    return wave.expand(1, 3, size, size).float()


@pytest.mark.parametrize(
    ("colour", "wanted"),
    # Bruce Lindbloom's calculator, sRGB, D65.
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab__of_known_colours(colour: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    got = lab(torch.tensor(colour, dtype=torch.float64).reshape(1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(got.numpy(), wanted, atol=0.02)


def test_edges__of_a_grating_have_its_orientation() -> None:
    for index, angle in enumerate((0, 45, 90, 135)):
        values = image_facts(stripes(angle))[0]
        shares = values[[FACTS.index(f"edges {degrees}") for degrees in (0, 45, 90, 135)]]
        assert int(shares.argmax()) == index
        assert float(shares.max()) > 0.9
        assert float(shares.sum()) == pytest.approx(1, abs=1e-4)


def test_colourfulness__is_that_of_its_source_and_zero_of_grey() -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    red, green, blue = images[0].numpy()
    first, second = red - green, (red + green) / 2 - blue
    wanted = math.hypot(first.std(), second.std()) + 0.3 * math.hypot(first.mean(), second.mean())
    assert float(fact(images, "colourfulness")) == pytest.approx(wanted, rel=1e-5)
    assert float(fact(stripes(0), "colourfulness")) == pytest.approx(0, abs=1e-6)


def test_sharpness_contrast_and_symmetry__order_pictures_as_eyes_do() -> None:
    fine, coarse = stripes(0, period=4), stripes(0, period=32)
    assert fact(fine, "sharpness") > fact(coarse, "sharpness")
    assert fact(fine, "edge density") > fact(coarse, "edge density")
    assert float(fact(fine, "contrast")) == pytest.approx(0.4 / math.sqrt(2), rel=0.01)
    mirrored = torch.cat([coarse[..., :32], coarse[..., :32].flip(-1)], dim=-1)
    assert float(fact(mirrored, "symmetry")) == pytest.approx(1, abs=1e-5)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert float(fact(ramp, "symmetry")) == pytest.approx(-1, abs=1e-5)


def test_spectral_slope__of_white_noise_is_flat_and_of_its_integral_steep() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(8, 1, 64, 64, generator=generator).expand(8, 3, 64, 64)
    frequency = torch.fft.fftfreq(64)[:, None].square() + torch.fft.rfftfreq(64)[None].square()
    frequency[0, 0] = 1
    pink = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency.sqrt())
    assert abs(float(fact(noise, "spectral slope").mean())) < 0.1
    assert float(fact(pink, "spectral slope").mean()) == pytest.approx(-2, abs=0.1)


def test_facts__of_cells_are_those_of_the_cells_alone_with_their_places() -> None:
    encoder = load_encoder("facts:32")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cells, whole = encoder(images)
    assert cells.shape == (2, 16, 16)
    torch.testing.assert_close(cells[1, 6, :14], image_facts(images[1:, :, 8:16, 16:24])[0])
    assert cells[0, 6, 14:].tolist() == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    torch.testing.assert_close(whole[:, 0], image_facts(images))


def test_facts__of_one_colour_are_finite() -> None:
    for value in (0.0, 0.3, 1.0):
        assert image_facts(torch.full((1, 3, 16, 16), value)).isfinite().all()


@pytest.mark.parametrize("name", ["facts:20", "facts:8", "facts:x"])
def test_facts__another_size_is_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="8 divides"):
        load_encoder(name)

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from hjepa_eval.errors import UnknownNameError
from hjepa_eval.report.figures.drawing import NUM_SERIES, PALETTE, css_variables, drawn, series

SCHEMES = list(PALETTE)


def luminance(colour: str) -> float:
    """Return the relative luminance of sRGB: WCAG 2.2, definition of "relative luminance"."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def blend(over: str, under: str, strength: float) -> str:
    pairs = [(int(over[place : place + 2], 16), int(under[place : place + 2], 16)) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(strength * a + (1 - strength) * b):02x}" for a, b in pairs)


def test_contrast__is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_palette__graphics_have_a_contrast_of_three_and_text_of_four_and_a_half(scheme: str) -> None:
    colours = PALETTE[scheme]
    graphics = ["rest", "heat", *(name for name in colours if name.startswith("series-"))]
    weak = {name: contrast(colours[name], colours["paper"]) for name in graphics}
    assert min(weak.values()) >= 3.0, min(weak, key=lambda name: weak[name])
    assert contrast(colours["ink"], colours["paper"]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_palette__numbers_are_legible_on_a_cell_of_any_strength(scheme: str) -> None:
    colours = PALETTE[scheme]
    cells = [blend(colours["heat"], colours["paper"], strength / 100) for strength in range(101)]
    assert min(contrast(colours["ink"], cell) for cell in cells) >= 4.5


def test_palette__pages_are_those_that_contrast_was_promised_for() -> None:
    assert (PALETTE["light"]["paper"], PALETTE["dark"]["paper"]) == ("#ffffff", "#14171c")


def oklab(colour: str) -> NDArray[np.float64]:
    """Return lightness and two hues such that equal distances look alike: Ottosson, "OKLab", 2020."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ linear)


def nearest(scheme: str, names: list[str]) -> float:
    colours = [oklab(PALETTE[scheme][name]) for name in names]
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(colours, 2))


def test_oklab__white_has_a_lightness_of_one_and_no_hue() -> None:
    assert oklab("#ffffff") == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_palette__classes_can_be_told_apart(scheme: str) -> None:
    # About 0.02 is a difference just noticed side by side.
    assert nearest(scheme, ["rest", *(series(place) for place in range(10))]) >= 0.09
    assert nearest(scheme, ["rest", *(series(place) for place in range(NUM_SERIES))]) >= 0.06
    assert len(set(PALETTE[scheme].values())) == len(PALETTE[scheme])


def test_css_variables__declare_every_name_in_both_schemes() -> None:
    light, dark = (re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", css_variables(scheme)) for scheme in SCHEMES)
    assert [name for name, _ in light] == [name for name, _ in dark] == list(PALETTE["light"])
    assert dict(light) == PALETTE["light"]
    assert dict(dark) == PALETTE["dark"]
    with pytest.raises(UnknownNameError, match="did you mean 'dark'"):
        css_variables("drak")


def test_series__begin_again_after_the_last() -> None:
    assert series(0) == series(NUM_SERIES) == "series-1"
    assert drawn(series(NUM_SERIES - 1)) == PALETTE["light"][f"series-{NUM_SERIES}"]

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from made_galleries import masks, png
from matplotlib.colors import to_hex
from PIL import Image

from hjepa_eval.errors import ResultError
from hjepa_eval.report.figures.drawing import drawn
from hjepa_eval.report.figures.masks import draw_masks, mask_pictures

IMAGES = {("train", 7): png((250, 0, 0)), ("train", 3): png((0, 0, 250)), ("test", 7): b"another"}


def test_draw_masks__images_under_a_veil_with_outlined_blocks() -> None:
    made = masks()
    shown = [np.full((4, 6, 3), 9, np.uint8), np.full((2, 2, 3), 200, np.uint8)]
    panels = draw_masks(shown, made.context[0], made.targets[0], grid=made.grid).axes
    assert [panel.images[0].get_array().tolist() for panel in panels] == [each.tolist() for each in shown]
    assert tuple(panels[0].images[0].get_extent()) == (0, 3, 2, 0)
    veil, outline = panels[0].patches
    assert to_hex(veil.get_facecolor()[:3]) == drawn("paper")
    # Two stripes: columns 1 to 3 of the upper row, 0 to 3 of the lower.
    stripes = veil.get_path().to_polygons(closed_only=False)
    assert [(*each.min(axis=0), *each.max(axis=0)) for each in stripes] == [(1, 0, 3, 1), (0, 1, 3, 2)]
    # The right column: six edges of one token around it, none between its two tokens.
    ends = outline.get_path().vertices.reshape(-1, 2, 2).tolist()
    assert sorted(ends) == [
        [[2, 0], [2, 1]],
        [[2, 0], [3, 0]],
        [[2, 1], [2, 2]],
        [[2, 2], [3, 2]],
        [[3, 0], [3, 1]],
        [[3, 1], [3, 2]],
    ]
    assert to_hex(outline.get_edgecolor()) == drawn("series-1")


def test_mask_pictures__hold_the_train_images_themselves() -> None:
    (picture,) = mask_pictures(masks(), IMAGES)
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', picture.svg)
    first = [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB").getpixel((1, 1)) for each in found]
    assert first == [(250, 0, 0), (0, 0, 250)]
    assert picture.title == "Masks (multi_block)"
    assert picture.text == (
        "Masks, multi_block, on 2 x 3 tokens of 2 train images: the encoder sees 17 percent of the tokens, 1 block to "
        "predict cover 33 percent."
    )


def test_mask_pictures__one_per_level_of_masks() -> None:
    pictures = mask_pictures(masks(3), IMAGES, prefix="r-")
    assert [picture.title for picture in pictures] == [f"Masks of level {level} (multi_block)" for level in range(3)]
    ids = [each for picture in pictures for each in re.findall(r'\bid="([^"]+)"', picture.svg)]
    assert len(ids) == len(set(ids))


def test_mask_pictures__everything_seen_needs_no_veil() -> None:
    made = masks()
    (picture,) = mask_pictures(replace(made, context=np.ones_like(made.context)), IMAGES)
    assert "sees 100 percent" in picture.text


def test_mask_pictures__a_missing_or_damaged_image_is_a_letter_to_the_user() -> None:
    with pytest.raises(ResultError, match="no copy of train image 3; hjepa eval writes it anew"):
        mask_pictures(masks(), {("train", 7): png((1, 1, 1))})
    with pytest.raises(ResultError, match="copy of train image 3 cannot be read"):
        mask_pictures(masks(), {**IMAGES, ("train", 3): b"no image"})

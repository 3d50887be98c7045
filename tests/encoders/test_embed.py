"""Features of a caller's own images: files, PIL images and arrays, prepared as the encoder wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa_eval.datasets.images import fit
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.protocol import embed_images
from hjepa_eval.encoders.readouts import get_readout
from hjepa_eval.errors import DataError, HjepaError

SPEC = "random:vit_tiny_patch8_32?levels=2"


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8))


def test_embed__every_way_to_hold_an_image_gives_the_features_of_its_file(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    held = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, array, pixels]
    encoder = load_encoder(SPEC)
    features = encoder.embed(held, batch_size=2)
    assert list(features) == [level.name for level in encoder.levels]
    with torch.no_grad():
        outputs = encoder(encoder.transform.normalise(fit(pixels, encoder.transform)[None]))
    for level, output, rows in zip(encoder.levels, outputs, features.values(), strict=True):
        assert rows.dtype == np.float32
        assert rows.shape == (5, 192)
        expected = get_readout("mean").read(output, level).numpy()
        np.testing.assert_allclose(rows, np.repeat(expected, 5, axis=0), rtol=1e-4, atol=1e-5)


def test_embed__grey_images_and_other_readouts_are_taken(picture: Image.Image) -> None:
    grey = picture.convert("L")
    encoder = load_encoder(SPEC)
    both = encoder.embed([grey, np.asarray(grey)], readout="grid")
    for rows in both.values():
        assert rows.shape == (2, 4 * 192)
        np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5, atol=1e-6)
    assert [rows.shape for rows in encoder.embed([]).values()] == [(0, 192)] * 2


def test_embed__what_is_no_image_is_named(picture: Image.Image, tmp_path: Path) -> None:
    encoder = load_encoder(SPEC)
    with pytest.raises(DataError, match=r"image 1 is torch.float64 \[4, 4\]; expected a path"):
        encoder.embed([picture, np.zeros((4, 4))])
    with pytest.raises(DataError, match=r"absent.png cannot be read: No such file"):
        encoder.embed([tmp_path / "absent.png"])
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(DataError, match=r"page.png is no JPEG, PNG, GIF or WebP"):
        encoder.embed([tmp_path / "page.png"])
    with pytest.raises(HjepaError, match="did you mean 'mean'"):
        encoder.embed([picture], readout="maen")


def test_embed__a_part_of_that_name_stays_what_it_is(picture: Image.Image) -> None:
    encoder = load_encoder(SPEC)
    encoder.embed = torch.nn.Linear(2, 2)
    assert isinstance(encoder.embed, torch.nn.Linear)
    assert [rows.shape for rows in embed_images(encoder, [picture]).values()] == [(1, 192)] * 2

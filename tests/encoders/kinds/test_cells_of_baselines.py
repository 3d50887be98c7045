"""Baselines with tokens: colours and k-means activations of cells, level by level."""

import pytest
import torch

from hjepa_eval.encoders.kinds.kmeans import KMeans, fit_kmeans
from hjepa_eval.encoders.kinds.pixels import load_pixels
from hjepa_eval.errors import EncoderError


def test_pixels__cells_are_mean_colours_at_each_level() -> None:
    encoder = load_pixels("8", {"cells": "4"})
    images = torch.rand(2, 3, 8, 8)
    fine, coarse = encoder(images)
    assert [level.grid for level in encoder.levels] == [(4, 4), (2, 2)]
    torch.testing.assert_close(fine[1, 5], images[1, :, 2:4, 2:4].mean((1, 2)))
    torch.testing.assert_close(coarse[0, 3], images[0, :, 4:, 4:].mean((1, 2)))


def test_kmeans__cells_are_mean_activations_of_their_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    tensors = fit_kmeans(images, centroids=4, patch=3, seed=0)
    fine, _ = KMeans(tensors, size=8, settings={}, cells=4)(images[:2].float() / 255)
    single = KMeans(tensors, size=8, settings={})(images[:2].float() / 255)[0]
    assert fine.shape == (2, 16, 4)
    assert single.shape == (2, 1, 16)
    # Patches of 3 in 8 pixels have 6 rows; their middles at 1.5 to 6.5 lie in cells 0, 1, 1, 2, 2, 3.
    sums = (single[:, 0] * tensors["deviation"] + tensors["mean"]).square().reshape(2, 4, 4)
    counts = torch.tensor([1.0, 2, 2, 1])
    weighed = (fine.reshape(2, 4, 4, 4) * counts[:, None, None] * counts[None, :, None]).sum((1, 2))
    torch.testing.assert_close(weighed, sums.sum(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cells", ["3", "1", "x", "64"])
def test_pixels__cells_that_do_not_fit_are_refused(cells: str) -> None:
    with pytest.raises(EncoderError, match="a power of two that divides 32 pixels"):
        load_pixels("", {"cells": cells})

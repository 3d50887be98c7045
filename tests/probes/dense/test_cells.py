"""Cells over pixels: shares, interpolation, ragged grids and frames, against torch and counting by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from hjepa_eval.datasets.images import fit
from hjepa_eval.datasets.transform import Transform, seen_part
from hjepa_eval.probes.dense.cells import Frame, lay_cells


def test_cells__scores_at_pixels_are_torchs_bilinear_ones() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    cells = lay_cells(Frame.whole(30, 40), (3, 4), (3, 4))
    grid = torch.from_numpy(scores.T.reshape(1, 5, 3, 4).copy())
    expected = interpolate(grid, size=(30, 40), mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(cells.to_pixels(scores), expected, atol=1e-6)


def test_cells__shares_are_counted_pixels_without_ignored_ones() -> None:
    classes = np.random.default_rng(1).integers(0, 3, (6, 8)).astype(np.uint8)
    classes[0, :5] = 255
    shares = lay_cells(Frame.whole(6, 8), (2, 2), (2, 2)).histograms(classes, num_classes=3)
    for cell, (rows, columns) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4)]):
        pixels = classes[rows : rows + 3, columns : columns + 4].ravel()
        counts = np.bincount(pixels[pixels != 255], minlength=3)
        np.testing.assert_allclose(shares[cell], counts / counts.sum(), atol=1e-6)


def test_cells__a_cell_of_ignored_pixels_has_no_shares() -> None:
    classes = np.zeros((4, 4), np.uint8)
    classes[:2, :2] = 255
    shares = lay_cells(Frame.whole(4, 4), (2, 2), (2, 2)).histograms(classes, num_classes=2)
    assert shares[0].tolist() == [0, 0]
    assert shares[1].tolist() == [1, 0]


def test_cells__pixels_on_an_edge_are_parted_between_cells() -> None:
    classes = np.array([[0, 1, 1]], np.uint8)
    shares = lay_cells(Frame.whole(1, 3), (1, 2), (1, 2)).histograms(classes, num_classes=2)
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 1]], atol=1e-6)


def test_cells__ragged_levels_end_in_smaller_cells() -> None:
    cells = lay_cells(Frame.whole(14, 14), (4, 4), (7, 7))
    np.testing.assert_allclose(cells.row_share.sum(axis=1), [4, 4, 4, 2])


@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_seen_part__is_where_the_pixels_of_the_input_come_from(crop: str) -> None:
    transform = Transform(16, 20, "bilinear", crop=crop)
    height, width = 40, 60
    top, left, bottom, right = seen_part(height, width, transform)
    ramp = torch.arange(width, dtype=torch.float32).mul(4).expand(3, height, width).to(torch.uint8)
    seen = fit(ramp, transform)[0, 8].float() / 4
    centres = left + (np.arange(16) + 0.5) * (right - left) / 16 - 0.5
    inside = (centres > 2) & (centres < width - 3)
    np.testing.assert_allclose(seen.numpy()[inside], centres[inside], atol=0.6)
    assert bottom - top == pytest.approx(40 * (16 / 20) if crop != "border" else 48, abs=2)


def test_cells__pixels_outside_of_the_frame_take_no_part() -> None:
    cells = lay_cells(Frame(10, 10, 2.0, 3.0, 8.0, 9.0), (2, 2), (2, 2))
    assert cells.seen == (slice(2, 8), slice(3, 9))
    assert cells.row_share.sum() == 6
    assert cells.label_pixels(np.eye(4, dtype=np.float32)).shape == (6, 6)

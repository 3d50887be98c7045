"""Depth, correspondence and discovery: against brute force, with tokens that know the answer and tokens that do not."""

import numpy as np
import pytest
import torch

from hjepa_eval.datasets.changes.warps import Warp
from hjepa_eval.probes.dense.cells import Frame, lay_cells
from hjepa_eval.probes.dense.correspondence import cell_centres, match_cells
from hjepa_eval.probes.dense.depth import cell_means, regress_depth
from hjepa_eval.probes.dense.discovery import best_on_grid, box_iou, boxes_of, discover, parts_of, seed_expansion
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.search.bank import ArrayBank


def _rows(tokens: np.ndarray) -> TokenRows:
    return TokenRows(ArrayBank(tokens.reshape(len(tokens), -1).astype(np.float32)), tokens.shape[1])


def test_depth__tokens_that_hold_the_depth_reach_the_ceiling() -> None:
    generator = np.random.default_rng(0)
    maps = generator.integers(0, 5, (30, 16, 16)).astype(np.float32)
    maps[:, :2] = np.nan
    cells = lay_cells(Frame.whole(16, 16), (4, 4), (4, 4))
    means = np.stack([cell_means(each, cells) for each in maps])
    noise = generator.normal(size=(30, 16, 3))
    tokens = _rows(np.concatenate([means[:, :, None], noise], axis=2))
    laid = lambda image: cells  # noqa: E731
    found = regress_depth(tokens, tokens, (maps.__getitem__,) * 2, (laid, laid), held=np.arange(3))
    assert found.test.r2() == pytest.approx(found.ceiling.r2(), abs=1e-3)
    assert found.test.parts().mean() == pytest.approx(found.test.r2(), abs=1e-12)
    blind = regress_depth(_rows(noise), _rows(noise), (maps.__getitem__,) * 2, (laid, laid), held=np.arange(3))
    assert abs(blind.test.r2()) < 0.02


def test_correspondence__equals_a_loop_and_knows_chance() -> None:
    generator = np.random.default_rng(1)
    grid, count = (3, 4), 5
    tokens, warped = generator.normal(size=(2, count, 12, 6))
    targets = generator.uniform(-0.2, 1.2, (count, 12, 2))
    found = match_cells(_rows(tokens), _rows(warped), targets, grid=grid)
    for image in range(count):
        hits, chances = [], []
        for cell in range(12):
            row, column = targets[image, cell]
            if not (0 <= row <= 1 and 0 <= column <= 1):
                continue
            cosine = [tokens[image, cell] @ other / np.linalg.norm(other) for other in warped[image]]
            near = []
            for other in range(12):
                down = (other // 4 + 0.5) - row * 3
                across = (other % 4 + 0.5) - column * 4
                near.append(down**2 + across**2 <= 1)
            hits.append(near[int(np.argmax(cosine))])
            chances.append(np.mean(near))
        assert found.within[image] == pytest.approx(np.mean(hits))
        assert found.chance[image] == pytest.approx(np.mean(chances))


def test_correspondence__tokens_that_follow_the_warp_match_everywhere() -> None:
    grid = (6, 6)
    centres = cell_centres(grid)
    rows = np.arange(4)
    targets = Warp().targets(centres, rows)
    # A token is the place of the original image that it shows, as a bump on every cell.
    tokens = np.stack([np.exp(-20 * ((centres[:, None] - centres[None]) ** 2).sum(-1))] * 4)
    warped = np.exp(-20 * ((targets[:, None] - centres[None, :, None]) ** 2).sum(-1))
    assert match_cells(_rows(tokens), _rows(warped), targets, grid=grid).within.min() > 0.8


def test_warp__a_marked_pixel_lands_where_targets_say() -> None:
    size, warp = 65, Warp(seed=3)
    rows = np.arange(6)
    images = torch.zeros(6, 3, size, size, dtype=torch.uint8)
    images[:, :, 28:31, 36:39] = 255
    place = np.array([[29.5, 37.5]]) / size
    moved = warp.apply(images, rows).float()[:, 0]
    for image, goal in enumerate(warp.targets(place, rows)[:, 0]):
        where = torch.nonzero(moved[image] > 100).float().mean(dim=0).numpy() + 0.5
        np.testing.assert_allclose(where / size, goal, atol=1.2 / size)


def test_discovery__one_square_on_noise_free_ground_is_found() -> None:
    grid = (8, 8)
    shown = np.zeros(grid, bool)
    shown[2:5, 3:6] = True
    tokens = np.where(shown.ravel()[:, None], [[3.0, 0.1]], [[-0.5, 0.1]]).astype(np.float32)
    assert seed_expansion(tokens, grid) == (2, 3, 5, 6)
    instances = np.kron(shown, np.ones((4, 4))).astype(np.uint8)
    boxes = boxes_of(instances)
    found = discover(tokens[None], [boxes], [Frame.whole(32, 32)], grid=grid)
    assert found.right.tolist() == [True]
    assert found.possible.tolist() == [True]


def test_discovery__boxes_and_their_overlap_by_hand() -> None:
    classes = np.zeros((6, 6), np.uint8)
    classes[0:2, 0:2], classes[4:6, 4:6], classes[3, 0] = 1, 1, 255
    assert boxes_of(parts_of(classes)) == [(0, 0, 2, 2), (4, 4, 6, 6)]
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert best_on_grid((0, 0, 3, 3), (2, 2), Frame.whole(8, 8)) == pytest.approx(9 / 16)
    assert best_on_grid((0, 0, 1, 1), (2, 2), Frame.whole(8, 8)) == pytest.approx(1 / 16)

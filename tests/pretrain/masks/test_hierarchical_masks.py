from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.masks import HierarchicalMaskGenerator

from hjepa_eval.encoders.vit import pool_cells
from hjepa_eval.errors import ConfigError

GRIDS = [(4, 4), (5, 7), (8, 8), (14, 14), (24, 24)]


def generator(grid: tuple[int, int], **options: object) -> HierarchicalMaskGenerator:
    return HierarchicalMaskGenerator((grid[0] * 4, grid[1] * 4), 4, **options)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_hierarchical__every_level_has_context_and_targets_that_share_no_token(
    grid: tuple[int, int], levels: int
) -> None:
    masks = generator(grid, num_hierarchies=levels, min_keep=2)(64)
    assert list(masks) == [f"level_{level}" for level in range(levels)]
    for each in masks.values():
        context, targets = each["context"], each["targets"]
        assert context.shape == (64, grid[0] * grid[1])
        assert targets.shape == (64, 4, grid[0] * grid[1])
        assert context.dtype == targets.dtype == torch.bool
        assert not (context & targets.any(dim=1)).any()
        assert context.sum(dim=1).min() >= 2
        assert targets.any(dim=(1, 2)).all()


@pytest.mark.rows("B6")
@pytest.mark.parametrize("grid", [(14, 14), (8, 8)])
@pytest.mark.parametrize("roll", [0.0, 0.5])
def test_hierarchical__context_grows_and_blocks_become_longer_with_the_level(
    grid: tuple[int, int], roll: float
) -> None:
    masks = generator(grid, roll=roll)
    found = list(masks.get_hierarchical_statistics(masks(2000)).values())
    context = [each["context_coverage"] for each in found]
    elongation = [each["target_elongation"] for each in found]
    assert context[0] + 0.03 < context[1] < context[2] - 0.03
    assert elongation[0] + 0.03 < elongation[1] < elongation[2] - 0.03
    assert [each["context_target_overlap"] for each in found] == [0, 0, 0]


@pytest.mark.rows("B5")
@pytest.mark.parametrize("grid", [(14, 14), (8, 8)])
def test_hierarchical__blocks_of_a_level_have_its_scale(grid: tuple[int, int]) -> None:
    masks = generator(grid)
    found = masks.get_hierarchical_statistics(masks(1000)).values()
    for each, (low, high) in zip(found, [(0.05, 0.15), (0.1, 0.3), (0.2, 0.6)], strict=True):
        assert each["achieved_scale"][0] >= low
        assert each["achieved_scale"][1] <= high


def test_hierarchical__linear_scales_grow_by_the_base_scale() -> None:
    scales = generator((14, 14), scale_progression="linear").scales
    assert [[round(bound, 6) for bound in scale] for scale in scales] == [[0.05, 0.15], [0.1, 0.3], [0.15, 0.45]]


@pytest.mark.parametrize(("grid", "roll"), [((8, 8), 1.0), ((14, 14), 0.0), ((14, 14), 1.0), ((5, 7), 1.0)])
def test_hierarchical__blocks_are_made_of_whole_cells_of_their_lattice(grid: tuple[int, int], roll: float) -> None:
    masks = generator(grid, roll=roll)
    assert masks.cells == [1, 2, 4]
    for level, each in enumerate(masks(256).values()):
        share = pool_cells(each["targets"].reshape(-1, grid[0] * grid[1], 1).float(), grid, level)
        assert ((share < 1e-6) | (share > 1 - 1e-6)).all()


def test_hierarchical__cells_too_large_for_the_scale_give_way_to_finer_ones() -> None:
    assert generator((8, 8), num_hierarchies=4).cells == [1, 2, 4, 4]
    assert generator((4, 4)).cells == [1, 2, 2]


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (14, 14)])
def test_hierarchical__every_token_is_a_target_and_context_at_every_level(grid: tuple[int, int]) -> None:
    for each in generator(grid)(2000).values():
        assert each["targets"].any(dim=1).any(dim=0).all()
        assert each["context"].any(dim=0).all()


def test_hierarchical__levels_and_images_have_masks_of_their_own_and_the_seed_decides() -> None:
    masks = generator((14, 14), seed=5)
    first, again = masks(32, step=3), generator((14, 14), seed=5)(32, step=3)
    for name, each in first.items():
        assert torch.equal(each["context"], again[name]["context"])
        assert torch.equal(each["targets"], again[name]["targets"])
    assert len(torch.unique(first["level_0"]["targets"].flatten(1), dim=0)) == 32
    other = generator((14, 14), seed=6)(32, step=3)
    assert not torch.equal(first["level_0"]["targets"], other["level_0"]["targets"])
    assert not torch.equal(first["level_0"]["targets"], masks(32, step=4)["level_0"]["targets"])


def test_sample__deals_all_levels_over_any_beginning_of_the_batch() -> None:
    masks = generator((8, 8))
    for step in range(3):
        sampled = masks.sample(32, step=step, context_tokens=24, target_tokens=40)
        assert sampled.level.tolist() == [(image + step) % 3 for image in range(32)]
        assert sampled.first(6).level.bincount().tolist() == [2, 2, 2]
        assert sampled.context.shape == (32, 24)
        assert not sampled.target_flags.gather(1, sampled.context).any()
        valid = [sampled.valid((8, 8), level).any(dim=1) for level in range(3)]
        assert torch.equal(torch.stack(valid).int().argmax(dim=0), sampled.level)
        assert (torch.stack(valid).sum(dim=0) == 1).all()


def test_sample__a_batch_smaller_than_the_levels_works() -> None:
    assert generator((8, 8)).sample(2, step=4, context_tokens=24, target_tokens=40).level.tolist() == [1, 2]


def test_sample__each_image_hides_blocks_of_its_own_level() -> None:
    sampled = generator((14, 14)).sample(999, step=0, context_tokens=60, target_tokens=136)
    union = sampled.target_flags.float().mean(dim=1)
    means = [float(union[sampled.level == level].mean()) for level in range(3)]
    assert means[0] < 0.36 < 0.45 < means[1] < 0.6
    share = pool_cells(sampled.target_flags.float().unsqueeze(-1), (14, 14), 2).squeeze(-1)[sampled.level == 2]
    assert ((share < 1e-6) | (share > 1 - 1e-6)).float().mean() > 0.9


def test_hierarchical__what_cannot_be_is_an_error() -> None:
    for options, message in [
        ({"scale_progression": "geometrical"}, "did you mean 'geometric'.*known: geometric, linear"),
        ({"base_scale": (0.2, 0.4)}, "blocks of level 2 cover 80% or more"),
        ({"base_scale": (0.4, 0.2)}, "base_scale"),
        ({"num_hierarchies": 0}, "num_hierarchies 0"),
        ({"min_keep": 64}, "min_keep 64"),
    ]:
        with pytest.raises(ConfigError, match=message):
            generator((8, 8), **options)


@pytest.mark.parametrize("grid", [(5, 5), (6, 6), (6, 9), (7, 7), (9, 9), (14, 14)])
def test_hierarchical__the_last_row_column_and_corner_are_hidden_as_often_as_the_first(grid: tuple[int, int]) -> None:
    masks = generator(grid)
    for drawn in masks(2000, step=0).values():
        often = drawn["targets"].any(dim=1).float().mean(dim=0).view(grid)
        # 2,000 images: the rate of a corner of level 0, 0.04, is known to a tenth of itself.
        assert often.min() > 0.7 * often[0, 0] > 0.02
        assert often[-1].mean() > 0.75 * often[0].mean()
        assert often[:, -1].mean() > 0.75 * often[:, 0].mean()
        assert often[-1, -1] > 0.7 * often[0, 0]


@pytest.mark.parametrize("grid", [(5, 5), (7, 7), (9, 9), (14, 14)])
def test_hierarchical__blocks_at_a_ragged_edge_keep_their_level_s_smallest_share(grid: tuple[int, int]) -> None:
    masks = generator(grid)
    for drawn, (low, _) in zip(masks(500, step=0).values(), masks.scales, strict=True):
        assert drawn["targets"].float().mean(dim=2).min() >= low - 1e-6

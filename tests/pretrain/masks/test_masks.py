from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hjepa_pretrain.masks import MultiBlockMaskGenerator, masks_from_masked, masks_from_used
from hjepa_pretrain.masks.indices import pick

from hjepa_eval.encoders.vit import pool_cells
from hjepa_eval.errors import ConfigError, TrainingError

GRIDS = [(4, 4), (5, 7), (8, 8), (14, 14), (24, 24)]


def generator(grid: tuple[int, int], **options: object) -> MultiBlockMaskGenerator:
    return MultiBlockMaskGenerator((grid[0] * 4, grid[1] * 4), 4, **options)


@pytest.mark.rows("B3")
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("overlap", [True, False])
def test_masks__context_and_targets_never_share_a_token(grid: tuple[int, int], overlap: bool) -> None:
    context, targets = generator(grid, allow_target_overlap=overlap, min_keep=3)(64)
    assert context.shape == (64, grid[0] * grid[1])
    assert targets.shape == (64, 4, grid[0] * grid[1])
    assert context.dtype == targets.dtype == torch.bool
    assert not (context & targets.any(dim=1)).any()
    assert context.sum(dim=1).min() >= 3
    assert targets.any(dim=(1, 2)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_masks__cover_every_token_the_last_row_and_column_too(grid: tuple[int, int]) -> None:
    masks = generator(grid)
    context, targets = masks(1024)
    often = targets.any(dim=1).float().mean(dim=0).reshape(grid)
    assert (often > 0).all()
    assert (context.float().mean(dim=0) > 0).all()
    torch.testing.assert_close(often, often.flip(0, 1), atol=0.08, rtol=0)


@pytest.mark.rows("B7")
def test_masks__same_seed_same_masks_other_step_other_masks() -> None:
    first, second = generator((8, 8), seed=3), generator((8, 8), seed=3)
    for _ in range(2):
        for a, b in zip(first(16), second(16), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(first(16, step=1)[1], second(16, step=1)[1])
    assert not torch.equal(first(16, step=1)[1], first(16, step=2)[1])
    assert not torch.equal(first(16, step=1)[1], generator((8, 8), seed=4)(16, step=1)[1])


@pytest.mark.rows("E8")
def test_masks__differ_between_images_of_a_batch() -> None:
    _, targets = generator((8, 8))(64)
    assert len(torch.unique(targets.any(dim=1), dim=0)) > 50


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (24, 24)])
def test_masks__target_blocks_are_rectangles_with_the_asked_area_and_aspect(grid: tuple[int, int]) -> None:
    _, targets = generator(grid, min_keep=1)(512)
    blocks = targets.reshape(-1, *grid)
    rows, columns = blocks.any(dim=2).sum(dim=1), blocks.any(dim=1).sum(dim=1)
    area = blocks.sum(dim=(1, 2))
    share = area / (grid[0] * grid[1])
    assert torch.equal(area, rows * columns)
    assert share.min() >= 0.15 - 1e-6
    assert share.max() <= 0.2 + 1e-6
    assert (rows / columns).min() >= 0.75 - 1e-6
    assert (rows / columns).max() <= 1.5 + 1e-6


@pytest.mark.rows("B2")
def test_masks__without_overlap_blocks_lie_apart() -> None:
    masks = generator((14, 14), allow_target_overlap=False)
    context, targets = masks(128)
    assert targets.sum(dim=1).max() == 1
    statistics = masks.get_mask_statistics(context, targets)
    assert statistics["target_overlap"] == 0
    assert 0.1 < statistics["target_coverage"] <= 0.2
    assert targets.any(dim=2).all()


@pytest.mark.rows("B4")
def test_masks__statistics_count_what_a_drawing_shows() -> None:
    masks = generator((4, 4), num_target_masks=2)
    context = torch.zeros(1, 4, 4, dtype=torch.bool)
    context[0, 3] = True
    targets = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    targets[0, 0, 0:2, 0:2] = True
    targets[0, 1, 0:2, 1:3] = True
    found = masks.get_mask_statistics(context.flatten(1), targets.flatten(2))
    assert found["context_coverage"] == 4 / 16
    assert found["target_coverage"] == 4 / 16
    assert found["target_union"] == 6 / 16
    assert found["target_overlap"] == 0.5
    assert found["smallest_context"] == 4
    assert found["complete_cells"] == [6, 1, 0]
    assert found["coverage_map"][0] == [1, 1, 1, 0]
    assert found["context_map"][3] == [1, 1, 1, 1]
    assert found["achieved_scale"] == [0.25, 0.25]
    assert found["target_aspect"] == [1, 1]
    assert found["target_elongation"] == 1
    assert found["empty_targets"] == 0


def test_sample__gives_fixed_counts_and_marks_padding() -> None:
    masks = generator((8, 8), min_keep=24).sample(64, step=0, context_tokens=24, target_tokens=40)
    assert masks.context.shape == (64, 24)
    assert masks.targets.shape == (64, 40)
    assert masks.context_valid is None
    seen = torch.zeros(64, 64, dtype=torch.bool).scatter_(1, masks.context, True)
    assert (seen.sum(dim=1) == 24).all()
    image, slot = masks.targets_valid.nonzero(as_tuple=True)
    assert not seen[image, masks.targets[image, slot]].any()
    assert torch.equal(masks.targets_valid.sum(dim=1), masks.target_flags.sum(dim=1))


@pytest.mark.parametrize("context_tokens", [1, 40, 63])
def test_sample__has_the_asked_context_however_large_the_blocks(context_tokens: int) -> None:
    masks = generator((8, 8), target_scale=(0.5, 0.6)).sample(
        128, step=0, context_tokens=context_tokens, target_tokens=64 - context_tokens
    )
    assert masks.context.shape == (128, context_tokens)
    seen = torch.zeros(128, 64, dtype=torch.bool).scatter_(1, masks.context, True)
    assert (seen.sum(dim=1) == context_tokens).all()
    assert not (seen & masks.target_flags).any()


def test_sample__context_tokens_are_a_random_part_not_the_first_rows() -> None:
    masks = generator((8, 8)).sample(2048, step=0, context_tokens=8, target_tokens=40)
    rows = torch.bincount((masks.context // 8).flatten(), minlength=8) / masks.context.numel()
    assert rows.argmin() in (3, 4)
    torch.testing.assert_close(rows, rows.flip(0), atol=0.02, rtol=0)


def test_sample__impossible_counts_are_errors() -> None:
    for context_tokens, target_tokens, message in [(64, 8, "context_tokens 64"), (8, 0, "target_tokens 0")]:
        with pytest.raises(ConfigError, match=message):
            generator((8, 8)).sample(2, step=0, context_tokens=context_tokens, target_tokens=target_tokens)


def test_masks__valid_counts_a_level_only_for_the_images_that_are_masked_for_it() -> None:
    mask = torch.zeros(3, 16)
    mask[:, [0, 1, 4, 5]] = 1
    plain = masks_from_masked(mask)
    dealt = replace(plain, level=torch.tensor([0, 1, 0]))
    assert plain.valid((4, 4), 0).all()
    assert dealt.valid((4, 4), 0).tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert plain.valid((4, 4), 1).sum(dim=1).tolist() == [1, 1, 1]
    assert dealt.valid((4, 4), 1).sum(dim=1).tolist() == [0, 1, 0]
    assert dealt.first(2).level.tolist() == [0, 1]
    assert plain.first(2).level is None


@pytest.mark.parametrize("grid", [(5, 7), (8, 8), (14, 14)])
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("roll", [0.0, 1.0])
def test_aligned__blocks_are_made_of_whole_cells(grid: tuple[int, int], overlap: bool, roll: float) -> None:
    masks = generator(grid, aligned=1.0, roll=roll, allow_target_overlap=overlap, num_target_masks=2)
    _, targets = masks(256)
    share = pool_cells(targets.reshape(-1, targets.shape[-1], 1).float(), grid, 1)
    assert ((share > 1 - 1e-6) | (share < 1e-6)).all()


def test_aligned__hides_more_whole_cells_than_blocks_that_lie_anywhere() -> None:
    loose, aligned = (generator((8, 8), aligned=share) for share in (0.0, 1.0))
    before, after = (each.get_mask_statistics(*each(1024))["complete_cells"] for each in (loose, aligned))
    assert after[1] > 1.5 * before[1]
    assert after[2] > 4 * before[2]


def test_aligned__a_share_of_the_images_is() -> None:
    _, targets = generator((8, 8), aligned=0.5)(1024)
    share = pool_cells(targets.reshape(-1, 64, 1).float(), (8, 8), 1).reshape(1024, -1)
    assert 0.4 < ((share == 0) | (share == 1)).all(dim=1).float().mean() < 0.6


def test_aligned__a_grid_without_room_is_an_error() -> None:
    with pytest.raises(ConfigError, match="more than 2 rows and columns, found 2x8"):
        generator((2, 8), aligned=0.5)


@pytest.mark.parametrize("overlap", [True, False])
def test_roll__makes_every_token_a_target_equally_often(overlap: bool) -> None:
    spread = []
    for roll in (0.0, 1.0):
        masks = generator((8, 8), roll=roll, allow_target_overlap=overlap, num_target_masks=2)
        often = torch.tensor(masks.get_mask_statistics(*masks(2048))["coverage_map"])
        spread.append(float(often.max() - often.min()))
    assert spread[1] < 0.08 < spread[0]


def test_roll__moves_context_and_targets_together() -> None:
    still, rolled = generator((6, 8), seed=2), generator((6, 8), seed=2, roll=1.0)
    moved = 0
    for before, after in zip(zip(*still(64), strict=True), zip(*rolled(64), strict=True), strict=True):
        both = torch.cat((before[0].unsqueeze(0), before[1])).reshape(-1, 6, 8)
        wanted = torch.cat((after[0].unsqueeze(0), after[1])).reshape(-1, 6, 8)
        found = [
            (down, right)
            for down in range(6)
            for right in range(8)
            if torch.equal(both[1:].roll((down, right), (1, 2)), wanted[1:])
        ]
        moved += (0, 0) not in found
        assert found
    assert moved > 48


def test_masks__ranges_and_shares_that_are_none_are_errors() -> None:
    for options, message in [
        ({"target_scale": (0.3, 0.2)}, "target_scale"),
        ({"context_scale": (0.5, 1.5)}, "up to 1"),
        ({"aspect_ratio_range": (0.0, 1.0)}, "aspect_ratio_range"),
        ({"roll": 1.5}, "roll 1.5"),
        ({"aligned": -0.1}, "aligned -0.1"),
        ({"num_target_masks": 0}, "num_target_masks 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            generator((8, 8), **options)


@pytest.mark.rows("B2")
def test_without_overlap__too_many_blocks_shrink_and_the_achieved_scale_says_so() -> None:
    masks = generator((8, 8), allow_target_overlap=False, num_target_masks=8, max_attempts=2)
    context, targets = masks(256)
    assert targets.sum(dim=1).max() == 1
    statistics = masks.get_mask_statistics(context, targets)
    assert statistics["achieved_scale"][0] < 0.15
    assert statistics["achieved_scale"][1] <= 0.2
    assert statistics["target_overlap"] == 0
    assert statistics["smallest_context"] >= 1


def test_pick__takes_flagged_tokens_and_pads() -> None:
    flags = torch.tensor([[True, False, True, True], [False, True, False, False]])
    indices, valid = pick(flags, 2)
    assert indices.tolist() == [[0, 2], [1, 0]]
    assert valid.tolist() == [[True, True], [True, False]]


def test_cells_valid__asks_for_the_share_of_a_cell_that_is_hidden() -> None:
    mask = torch.zeros(1, 16)
    mask[0, [0, 1, 4, 10]] = 1
    masks = masks_from_masked(mask)
    assert masks.cells_valid((4, 4), 1, coverage=0.75).tolist() == [[True, False, False, False]]
    assert masks.cells_valid((4, 4), 1, coverage=0.25).tolist() == [[True, False, False, True]]


def test_converters__both_conventions_give_the_same_indices() -> None:
    mask = torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 1]])
    one = masks_from_masked(mask)
    two = masks_from_used(mask == 0, (mask == 1).unsqueeze(1))
    for name in ("context", "targets", "targets_valid", "target_flags", "context_valid"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert one.context.tolist() == [[0, 3, 0], [0, 1, 2]]
    assert one.context_valid.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.rows("A15")
def test_converters__ambiguous_or_impossible_masks_are_errors() -> None:
    used = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(TrainingError, match="boolean mask is ambiguous"):
        masks_from_masked(used)
    with pytest.raises(TrainingError, match="zeros and ones"):
        masks_from_masked(torch.full((2, 4), 0.5))
    with pytest.raises(TrainingError, match="no context or no targets"):
        masks_from_masked(torch.zeros(2, 4))
    with pytest.raises(TrainingError, match="must be boolean"):
        masks_from_used(used.float(), used.unsqueeze(1))
    with pytest.raises(TrainingError, match="context and target at once"):
        masks_from_used(used, used.unsqueeze(1))


def test_generator__impossible_geometry_is_an_error() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        MultiBlockMaskGenerator(30, 4)
    with pytest.raises(ConfigError, match="min_keep 64"):
        generator((8, 8), min_keep=64)

from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.checks import masking_problems
from hjepa_pretrain.config.schedules import context_count
from hjepa_pretrain.config.settings import MaskingSettings
from hjepa_pretrain.masks import (
    HierarchicalMaskGenerator,
    MultiBlockMaskGenerator,
    RandomMaskGenerator,
    create_mask_generator,
)
from hjepa_pretrain.masks.placement import inside_sums

from hjepa_eval.config import build
from hjepa_eval.errors import ConfigError

KINDS = {
    "multi_block": MultiBlockMaskGenerator,
    "hierarchical": HierarchicalMaskGenerator,
    "random": RandomMaskGenerator,
}


def settings(**values: object) -> MaskingSettings:
    return build(MaskingSettings, values, "test")


def create(masking: MaskingSettings, *, side: int = 8, levels: int = 3) -> object:
    return create_mask_generator(
        masking, image_size=side * 4, patch_size=4, num_levels=levels, context_tokens=side * side * 3 // 8, seed=0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [4, 8, 14])
@pytest.mark.parametrize("more", [{}, {"aligned": 0.5, "roll": 0.5, "saliency": 2.0}])
def test_generators__one_interface_fixed_counts_and_the_step_decides(
    kind: str, side: int, more: dict[str, float]
) -> None:
    masks, patches = create(settings(type=kind, **more), side=side), side * side
    assert isinstance(masks, KINDS[kind])
    options = {"context_tokens": patches * 3 // 8, "target_tokens": patches // 2, "saliency": torch.rand(30, patches)}
    first, again, other = (masks.sample(30, torch.device("cpu"), step=step, **options) for step in (7, 7, 8))
    assert first.context.shape == (30, patches * 3 // 8)
    assert first.targets.shape == first.targets_valid.shape == (30, patches // 2)
    assert first.context_valid is None
    assert (first.context.diff(dim=1) > 0).all()
    assert not first.target_flags.gather(1, first.context).any()
    assert first.target_flags.gather(1, first.targets)[first.targets_valid].all()
    assert first.target_flags.any(dim=1).all()
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.context, other.context)
    assert (first.level is None) == (kind != "hierarchical")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overlap", [True, False])
def test_generators__every_grid_from_4_to_24_has_masks(kind: str, overlap: bool) -> None:
    for side in range(4, 25):
        masking = settings(type=kind, allow_target_overlap=overlap or kind == "hierarchical", roll=0.5, aligned=0.5)
        context_tokens = side * side * 3 // 8
        sampled = create(masking, side=side).sample(
            12, "cpu", step=side, context_tokens=context_tokens, target_tokens=side * side - context_tokens
        )
        assert 0 <= int(sampled.context.min()) <= int(sampled.context.max()) < side * side
        assert (sampled.context.diff(dim=1) > 0).all()
        assert torch.equal(sampled.targets_valid.sum(dim=1), sampled.target_flags.sum(dim=1))
        for level in range(3):
            own = torch.ones(12, dtype=torch.bool) if sampled.level is None else sampled.level == level
            if level == 0:
                assert sampled.valid((side, side), 0)[own].any(dim=1).all()
            else:
                assert not sampled.valid((side, side), level)[~own].any()


@pytest.mark.rows("B8")
def test_generators__every_documented_key_arrives() -> None:
    blocks = create(
        settings(
            type="multi_block",
            num_masks=2,
            mask_scale=[0.1, 0.12],
            aspect_ratio=[1.0, 1.0],
            num_context_masks=1,
            context_scale=[0.3, 0.3],
        ),
        side=14,
    )
    context, targets = blocks(64)
    assert targets.shape[1] == 2
    statistics = blocks.get_mask_statistics(context, targets)
    assert statistics["achieved_scale"][1] <= 0.12
    assert statistics["context_coverage"] < 0.4
    levels = create(
        settings(
            type="hierarchical",
            num_hierarchies=2,
            num_masks_per_level=3,
            scale_progression="linear",
            base_scale=[0.1, 0.2],
        ),
        levels=2,
    )
    masks = levels(4)
    assert len(masks) == 2
    assert masks["level_1"]["targets"].shape == (4, 3, 64)
    assert levels.scales == [(0.1, 0.2), (0.2, 0.4)]


def test_generators__settings_that_contradict_each_other_are_one_error() -> None:
    masking = settings(
        type="hierarchical",
        num_hierarchies=2,
        allow_target_overlap=False,
        base_scale=[0.3, 0.4],
        context_tokens=64,
        mask_ratio=0.5,
    )
    assert len(masking_problems(masking, num_levels=3)) == 4
    with pytest.raises(ConfigError, match=r"mask_ratio and .*; .*disagrees with the model's 3; .*; masking.base_scale"):
        create(masking)
    assert masking_problems(settings(mask_ratio_end=0.5), num_levels=3) == [
        "masking.mask_ratio_end needs a masking.mask_ratio to begin with"
    ]
    assert masking_problems(settings(type="hierarchical"), num_levels=3) == []


@pytest.mark.rows("B10", "C4")
def test_context_count__moves_from_the_one_ratio_to_the_other_in_few_steps() -> None:
    masking = settings(mask_ratio=0.5, mask_ratio_end=0.75)
    counts = [context_count(masking, 64, progress / 1000) for progress in range(1001)]
    assert counts[0] == 32
    assert counts[124] == 32
    assert counts[-1] == counts[875] == 16
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 8


def test_context_count__without_an_end_it_stays() -> None:
    assert {context_count(settings(mask_ratio=0.75), 196, progress / 10) for progress in range(11)} == {49}
    assert context_count(settings(), 64, 0.3) == 24
    assert context_count(settings(context_tokens=5), 64, 0.3) == 5
    assert context_count(settings(mask_ratio=0.999), 4, 0.0) == 1
    assert context_count(settings(mask_ratio=0.001), 4, 0.0) == 3


def test_random__hides_exactly_the_asked_tokens_everywhere_alike() -> None:
    masks = RandomMaskGenerator(32, 4, context_tokens=16)
    context, targets = masks(4096)
    assert (context.sum(dim=1) == 16).all()
    assert torch.equal(targets.squeeze(1), ~context)
    torch.testing.assert_close(context.float().mean(dim=0), torch.full((64,), 0.25), atol=0.04, rtol=0)


def test_inside_sums__are_those_of_the_slices() -> None:
    values = torch.rand(3, 5, 7)
    sizes = torch.tensor([[1, 1], [2, 3], [5, 4]])
    sums = inside_sums(values, sizes)
    for image, (rows, columns) in enumerate(sizes.tolist()):
        for top in range(5):
            for left in range(7):
                wanted = values[image, top : top + rows, left : left + columns].sum()
                torch.testing.assert_close(sums[image, top, left], wanted)


@pytest.mark.rows("B10")
@pytest.mark.parametrize(
    ("kind", "overlap"), [("multi_block", True), ("multi_block", False), ("hierarchical", True), ("random", True)]
)
def test_saliency__draws_targets_to_salient_tokens_by_its_strength(kind: str, overlap: bool) -> None:
    saliency = torch.full((1536, 64), 0.1)
    saliency[:, :20] = 1.0
    shares = []
    for strength in (0.0, 1.0, 8.0):
        masking = settings(type=kind, saliency=strength, roll=1.0, num_masks=1, allow_target_overlap=overlap)
        masks = create(masking)
        flags = masks.sample(1536, "cpu", step=0, context_tokens=48, target_tokens=16, saliency=saliency).target_flags
        shares.append(float(flags[:, :20].sum() / flags.sum()))
    assert shares[0] == pytest.approx(20 / 64, abs=0.04)
    assert shares[0] + 0.03 < shares[1] < shares[2] - 0.02


def test_saliency__a_corner_is_as_probable_as_the_saliency_inside_its_block() -> None:
    # Blocks of one token: of the two salient ones the first is three times as salient.
    saliency = torch.zeros(4000, 16)
    saliency[:, 3], saliency[:, 8] = 3.0, 1.0
    masks = MultiBlockMaskGenerator(16, 4, 1, (1 / 16, 1 / 16), saliency=1.0)
    _, targets = masks(4000, saliency=saliency)
    often = targets.squeeze(1).float().mean(dim=0)
    assert float(often[3]) == pytest.approx(0.75, abs=0.025)
    assert float(often[8]) == pytest.approx(0.25, abs=0.025)


def test_saliency__its_unit_and_its_absence_do_not_matter() -> None:
    masks = create(settings(saliency=2.0))
    options = {"step": 0, "context_tokens": 24, "target_tokens": 40}
    saliency = torch.rand(16, 64)
    one, other = (masks.sample(16, "cpu", saliency=saliency * unit, **options) for unit in (1.0, 1024.0))
    assert torch.equal(one.target_flags, other.target_flags)
    without = create(settings()).sample(16, "cpu", saliency=saliency, **options)
    assert torch.equal(masks.sample(16, "cpu", **options).target_flags, without.target_flags)


@pytest.mark.parametrize("size", [(224,), (224, 224, 3)])
def test_generator__a_size_that_is_no_pair_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected a side in pixels, or"):
        MultiBlockMaskGenerator(input_size=size)

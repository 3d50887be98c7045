"""The examples and promises of the second source document, H-JEPA's masks, with our names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.masks import (
    HierarchicalMaskGenerator,
    MultiBlockMaskGenerator,
    RandomMaskGenerator,
    create_mask_generator,
    masks_from_used,
)
from hjepa_pretrain.models import HJEPA, create_hjepa
from hjepa_pretrain.objectives.losses import level_loss
from torch import Tensor

from hjepa_eval.config import parse_yaml
from hjepa_eval.errors import ConfigError

MULTI_BLOCK = """
  # Multi-block masking
  type: "multi_block"
  num_masks: 4
  mask_scale: [0.15, 0.2]
  aspect_ratio: [0.75, 1.5]
  num_context_masks: 1
  context_scale: [0.85, 1.0]
"""
HIERARCHICAL = """
  # OR hierarchical masking
  type: "hierarchical"
  num_hierarchies: 3
  num_masks_per_level: 4
  scale_progression: "geometric"
  base_scale: [0.05, 0.15]
"""
IMAGES, BLOCKS = 8, 4


def documented_blocks() -> MultiBlockMaskGenerator:
    return MultiBlockMaskGenerator(
        input_size=224,
        patch_size=16,
        num_target_masks=4,
        target_scale=(0.15, 0.2),
        context_scale=(0.85, 1.0),
        aspect_ratio_range=(0.75, 1.5),
    )


def documented_levels() -> HierarchicalMaskGenerator:
    return HierarchicalMaskGenerator(
        input_size=224,
        patch_size=16,
        num_hierarchies=3,
        num_target_masks=4,
        scale_progression="geometric",
        base_scale=(0.05, 0.15),
    )


@pytest.mark.rows("B1", "B5")
def test_example__usage_gives_the_documented_shapes() -> None:
    context, targets = documented_blocks()(batch_size=8, device="cpu")
    assert (context.dtype, context.shape) == (torch.bool, (8, 196))
    assert (targets.dtype, targets.shape) == (torch.bool, (8, 4, 196))
    masks = documented_levels()(batch_size=8, device="cpu")
    assert list(masks) == ["level_0", "level_1", "level_2"]
    for each in masks.values():
        assert each["context"].shape == (8, 196)
        assert each["targets"].shape == (8, 4, 196)
    assert HierarchicalMaskGenerator(384, 16)(2)["level_2"]["context"].shape == (2, 576)


@pytest.mark.rows("B9")
def test_statistics__are_reached_where_they_can_be() -> None:
    """Statistics that the document prints, of 1,000 masks on 14x14 tokens.

    Reached: no shared token; the context of multi-block masks, 40.75 +- 13.59 %, lies within one deviation of ours; the
    targets of level 0, 10.65 %; the mean context of the three levels, 36.1 %. Out of reach: 13.28 % for a block that
    is drawn from 15 to 20 %, and 14.01 and 16.09 % where the documented scales say 10-30 and 20-60 % (means of 20 and
    40): those come from the small block that the original falls back to when it finds no place. And a context that
    grows with the level, which 34.12, 38.14 and 35.97 % do not: ours does.
    """
    blocks = MultiBlockMaskGenerator()
    found = blocks.get_mask_statistics(*blocks(1000))
    assert found["context_target_overlap"] == 0
    assert abs(found["context_coverage"] - 0.4075) < 0.1359
    assert found["context_coverage"] == pytest.approx(0.465, abs=0.02)  # what is measured of ours
    assert 0.15 <= found["target_coverage"] <= 0.2
    levels = HierarchicalMaskGenerator()
    each = list(levels.get_hierarchical_statistics(levels(1000)).values())
    assert each[0]["target_coverage"] == pytest.approx(0.1065, abs=0.01)
    assert sum(level["context_coverage"] for level in each) / 3 == pytest.approx(0.361, abs=0.02)
    assert each[1]["target_coverage"] == pytest.approx(0.2, abs=0.01)
    assert each[2]["target_coverage"] == pytest.approx(0.4, abs=0.02)


def test_yaml__both_kinds_in_one_section_are_refused_by_the_line_of_the_second() -> None:
    with pytest.raises(ConfigError, match=r"^document 001: line 11: the key 'type' is said twice; keep one of them$"):
        parse_yaml(f"masking:{MULTI_BLOCK}{HIERARCHICAL}", "document 001")


def from_yaml(half: str) -> MultiBlockMaskGenerator | HierarchicalMaskGenerator:
    """Return the generator of one half of the document's section, on the document's grid."""
    section = parse_yaml(f"masking:{half}", "document 001")
    settings = build_settings({**section, "train": {"epochs": 1}}, "document 001")
    levels = settings.model.num_hierarchies
    made = create_mask_generator(
        settings.masking, image_size=224, patch_size=16, num_levels=levels, context_tokens=1, seed=0
    )
    assert not isinstance(made, RandomMaskGenerator)
    return made


@pytest.mark.rows("B8")
def test_yaml__each_half_loads_and_draws_the_masks_of_the_documented_call() -> None:
    drawn, expected = from_yaml(MULTI_BLOCK)(8), documented_blocks()(8)
    assert all(torch.equal(mine, its) for mine, its in zip(drawn, expected, strict=True))
    levels, expected_levels = from_yaml(HIERARCHICAL)(8), documented_levels()(8)
    assert list(levels) == list(expected_levels)
    for name, each in levels.items():
        assert all(torch.equal(each[part], expected_levels[name][part]) for part in ("context", "targets"))


@pytest.fixture
def model() -> HJEPA:
    predictor = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    return create_hjepa("vit_tiny_patch4_32", encoder_depth=3, mask_mode="zero", predictor=predictor)


def noise() -> Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def training_step(images: Tensor, model: HJEPA, context_mask: Tensor, target_masks: Tensor) -> tuple[Tensor, Tensor]:
    """The document's training step, block by block as it is written there: loss, and predictions `[B, N, D]`.

    Its targets are the encoder's own patch embeddings, which the model could make easy; ours are what the target
    encoder says. Its mask of the context is `mask_mode: zero`.
    """
    context = masks_from_used(context_mask, target_masks)
    context_repr = model.context_encoder(images, context.context, valid=context.context_valid)[-1]
    with torch.no_grad():
        targets = F.layer_norm(model.target_encoder(images)[0], (192,))
    predictions = torch.zeros_like(targets)
    for i in range(target_masks.shape[1]):
        block = masks_from_used(context_mask, target_masks[:, i : i + 1])
        (pred_i,) = model.predictor(context_repr, block.context, [block.targets], context_valid=block.context_valid)
        places, valid = block.targets.unsqueeze(-1).expand(-1, -1, 192), block.targets_valid.unsqueeze(-1)
        # Padding asks for token 0, which may be one of the block's: its answer is added to nothing.
        once = torch.zeros_like(targets).scatter_add(1, places, model.heads[0](pred_i) * valid)
        predictions = torch.where(target_masks[:, i].unsqueeze(-1), once, predictions)
    return level_loss(predictions, targets, target_masks.any(dim=1)), predictions


def drawn() -> tuple[Tensor, Tensor]:
    return MultiBlockMaskGenerator(32, 4, BLOCKS, min_keep=4)(batch_size=IMAGES, device="cpu")


@pytest.mark.rows("C1")
def test_training_step__block_by_block_is_what_the_model_does_in_one_pass(model: HJEPA) -> None:
    context_mask, target_masks = drawn()
    masks = masks_from_used(context_mask, target_masks)
    with torch.no_grad():
        loss, predictions = training_step(noise(), model.eval(), context_mask, target_masks)
        outputs = model(noise(), masks, return_all_levels=False)
    (valid,) = outputs["valid"]
    assert torch.equal(valid.sum(dim=1), target_masks.any(dim=1).sum(dim=1))
    asked = predictions.gather(1, masks.targets.unsqueeze(-1).expand(-1, -1, 192))
    torch.testing.assert_close(outputs["predictions"][0][valid], asked[valid], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(level_loss(outputs["predictions"][0], outputs["targets"][0], valid), loss)


def test_training_step__its_loss_teaches_encoder_and_predictor_and_leaves_the_target_encoder(model: HJEPA) -> None:
    context_mask, target_masks = drawn()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss, _ = training_step(noise(), model, context_mask, target_masks)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    for part in (model.context_encoder.vit.blocks, model.predictor.blocks, model.heads[0]):
        assert all(each.grad is not None and bool(each.grad.any()) for each in part.parameters())
    assert all(each.grad is None for each in model.target_encoder.parameters())


@pytest.mark.rows("B5")
def test_training_step__every_level_of_hierarchical_masks_trains_its_level(model: HJEPA) -> None:
    masks = HierarchicalMaskGenerator(32, 4, min_keep=4)(batch_size=IMAGES, device="cpu")
    for level, each in enumerate(masks.values()):
        outputs = model(noise(), masks_from_used(each["context"], each["targets"]))
        assert bool(outputs["valid"][level].any())
        loss = level_loss(*(outputs[name][level] for name in ("predictions", "targets", "valid")))
        model.zero_grad()
        torch.autograd.backward(loss)
        assert [head[1].weight.grad is not None for head in model.heads] == [other == level for other in range(3)]

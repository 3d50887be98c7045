"""The examples and promises of the first source document, H-JEPA's model, with our names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.masks import masks_from_masked, masks_from_used
from hjepa_pretrain.models import (
    HJEPA,
    ContextEncoder,
    Predictor,
    PredictorBlock,
    TargetEncoder,
    create_hjepa,
    create_hjepa_from_config,
)
from hjepa_pretrain.objectives.losses import hierarchical_loss
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import Tensor, nn

from hjepa_eval.config import parse_yaml
from hjepa_eval.encoders.vit import create_vit, pool_cells
from hjepa_eval.errors import ConfigError

DOCUMENTED = """
model:
  encoder_type: "vit_base_patch16_224"
  embed_dim: 768
  num_hierarchies: 3
  predictor:
    depth: 6
    num_heads: 12
    mlp_ratio: 4.0
  ema:
    momentum: 0.996
    momentum_end: 1.0
    momentum_warmup_epochs: 30
"""
TINY: dict[str, Any] = {"encoder_depth": 3, "predictor": {"embed_dim": 48, "depth": 2, "num_heads": 3}}


@pytest.fixture(scope="module")
def documented() -> HJEPA:
    return create_hjepa(
        encoder_type="vit_base_patch16_224",
        img_size=224,
        embed_dim=768,
        predictor_depth=6,
        num_hierarchies=3,
    )


def documented_mask() -> Tensor:
    mask = torch.zeros(2, 196)
    mask[:, :98] = 1
    return mask


def noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.rows("A1", "A11")
def test_example__basic_usage(documented: HJEPA) -> None:
    with torch.no_grad():
        outputs = documented(noise(2, 224), documented_mask(), return_all_levels=True)
    # The upper half is masked: 98 tokens, of 7x7 cells of 2x2 tokens, and of 4x4 cells of 4x4 tokens at most.
    for name in ("predictions", "targets"):
        assert [list(tensor.shape) for tensor in outputs[name]] == [[2, 98, 768], [2, 49, 768], [2, 16, 768]], name
        assert all(bool(tensor.isfinite().all()) for tensor in outputs[name])
    momentum = documented.update_target_encoder(current_step=100)
    assert momentum == 0.996  # without a length of the training the schedule stays at its start


def test_example__feature_extraction(documented: HJEPA) -> None:
    with torch.no_grad():
        fine = documented.extract_features(noise(2, 224), level=0)
        coarse = documented.extract_features(noise(2, 224), level=2)
    assert list(fine.shape) == [2, 196, 768]
    assert list(coarse.shape) == [2, 16, 768]


@pytest.mark.rows("A13")
def test_example__config_based_usage() -> None:
    config = parse_yaml(DOCUMENTED, "document 000")
    with torch.device("meta"):
        model = create_hjepa_from_config({**config, "model": {**config["model"], "positions": "learned"}})
    assert model.num_levels == 3
    assert model.context_encoder.vit.embed_dim == 768
    assert [len(model.context_encoder.vit.blocks), len(model.predictor.blocks)] == [12, 6]
    assert model.predictor.blocks[0].attn.num_heads == 12
    assert (model.ema.base, model.ema.end) == (0.996, 1.0)


@pytest.mark.rows("A5")
def test_ema__of_the_documented_configuration_is_held_for_30_epochs_then_rises_to_one() -> None:
    ema = parse_yaml(DOCUMENTED, "document 000")["model"]["ema"]
    config = {"model": {"encoder_type": "vit_tiny_patch4_32", **TINY, "ema": ema}}
    model = create_hjepa_from_config(config, total_steps=100 * 5, steps_per_epoch=5)
    momenta = [model.ema.momentum(step) for step in range(500)]
    assert set(momenta[: 30 * 5]) == {0.996}
    assert momenta[30 * 5 + 1] > 0.996
    assert all(a <= b for a, b in itertools.pairwise(momenta))
    assert momenta[-1] == pytest.approx(1.0)
    assert momenta[150 + 350 // 2] == pytest.approx(0.998, abs=2e-5)  # half of the way, not of all steps


@pytest.mark.rows("A6")
def test_update__moves_the_target_by_the_momentum_that_it_returns() -> None:
    config = {"model": {"encoder_type": "vit_tiny_patch4_32", **TINY, "ema": {"momentum": 0.9, "momentum_end": 0.98}}}
    model = create_hjepa_from_config(config, total_steps=201)
    weight, average = model.context_encoder.vit.blocks[0].mlp.fc1.weight, model.target_encoder.vit
    before = average.blocks[0].mlp.fc1.weight.clone()
    with torch.no_grad():
        weight += 1
    momentum = model.update_target_encoder(current_step=100)
    assert momentum == pytest.approx(0.94)
    torch.testing.assert_close(average.blocks[0].mlp.fc1.weight, momentum * before + (1 - momentum) * weight)


@pytest.mark.rows("A2")
@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768), ("large", 1024)])
def test_encoder__sizes_of_timm_with_their_own_width(size: str, width: int) -> None:
    with torch.device("meta"):
        model = create_hjepa(f"vit_{size}_patch16_224", embed_dim=width, positions="learned")
    assert model.context_encoder.vit.embed_dim == width
    with pytest.raises(ConfigError, match=f"embed_dim 640 disagrees with the {width}"):
        create_hjepa(f"vit_{size}_patch16_224", embed_dim=640)


@pytest.mark.rows("A2")
def test_encoder__class_token_is_in_the_encodings_and_not_in_the_cells() -> None:
    model = create_hjepa("vit_tiny_patch4_32", class_token=True, **TINY).eval()
    masks = masks_from_masked(torch.cat((torch.ones(2, 40), torch.zeros(2, 24)), dim=1))
    with torch.no_grad():
        assert model.context_encoder(noise(2, 32), masks.context)[-1].shape[1] == 1 + 24
        assert model.target_encoder(noise(2, 32))[-1].shape[1] == 1 + 64
        assert model.extract_features(noise(2, 32), level=0).shape[1] == 64
        assert model(noise(2, 32), masks)["predictions"][0].shape[1] == 40


@pytest.mark.rows("A4")
def test_target_encoder__pretrained_weights_survive_the_copy(tmp_path: Path) -> None:
    source = create_vit("vit_tiny_patch4_32", seed=7, depth=3).state_dict()
    save_file(source, tmp_path / "pretrained.safetensors")
    vit = create_vit("vit_tiny_patch4_32", depth=3, checkpoint_path=str(tmp_path / "pretrained.safetensors"))
    model = HJEPA(
        ContextEncoder(vit, taps=(1, 2, 3)),
        Predictor(encoder_dim=192, grid=(8, 8), num_levels=3, embed_dim=48, depth=1, num_heads=3, prefix=1),
        ema=EmaSchedule(),
    )
    for encoder in (model.context_encoder, model.target_encoder):
        weights = encoder.vit.state_dict()
        assert weights.keys() == source.keys()
        assert all(torch.equal(weights[name], source[name]) for name in source)
    fresh = create_vit("vit_tiny_patch4_32", depth=3).state_dict()
    assert not torch.equal(fresh["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])


def test_target_encoder__is_a_context_encoder_without_gradient(documented: HJEPA) -> None:
    context, target = documented.context_encoder, documented.target_encoder
    assert isinstance(target, TargetEncoder)
    assert isinstance(target, ContextEncoder)
    assert str(target.vit) == str(context.vit)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert {id(p) for p in target.parameters()}.isdisjoint(id(p) for p in context.parameters())


@pytest.mark.parametrize("class_token", [False, True])
def test_predictor__indices_and_binary_mask_over_the_full_sequence_say_the_same(class_token: bool) -> None:
    model = create_hjepa("vit_tiny_patch4_32", class_token=class_token, **TINY).eval()
    mask = (torch.rand(3, 64, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    masks = masks_from_masked(mask)
    with torch.no_grad():
        tokens = model.context_encoder(noise(3, 32))[-1]
        seen = torch.cat(
            (
                tokens[:, :class_token],
                tokens[:, class_token:].gather(1, masks.context.unsqueeze(-1).expand(-1, -1, 192)),
            ),
            dim=1,
        )
        (indexed,) = model.predictor(seen, masks.context, [masks.targets], context_valid=masks.context_valid)
        whole = model.predictor.predict_masked(tokens, mask)
    assert list(whole.shape) == [3, 64, 192]
    for image in range(3):
        places = masks.targets[image][masks.targets_valid[image]]
        expected = indexed[image][masks.targets_valid[image]]
        torch.testing.assert_close(whole[image, places], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.rows("A7")
def test_predictor__mask_tokens_start_small_and_normal() -> None:
    torch.manual_seed(0)
    token = Predictor(encoder_dim=8, grid=(4, 4), embed_dim=1024, depth=1, num_heads=4).mask_token.detach()
    assert float(token.std()) == pytest.approx(0.02, rel=0.1)
    assert abs(float(token.mean())) < 0.002


@pytest.mark.rows("A8")
def test_predictor_block__has_attention_gelu_mlp_norms_residuals_and_dropped_paths() -> None:
    predictor = Predictor(encoder_dim=8, grid=(4, 4), embed_dim=32, depth=3, num_heads=4, mlp_ratio=4.0, drop_path=0.2)
    block = predictor.blocks[-1]
    assert isinstance(block, PredictorBlock)
    assert block.attn.num_heads == 4
    assert isinstance(block.mlp.act, nn.GELU)
    assert block.mlp.fc1.out_features == 4 * 32
    assert isinstance(block.norm1, nn.LayerNorm)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in predictor.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert isinstance(block.drop_path2, DropPath)
    with torch.no_grad():  # branches that say nothing leave the residual alone
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        tokens = torch.randn(2, 5, 32)
        assert torch.equal(block.eval()(tokens), tokens)


def test_hierarchies__two_to_four_and_one_are_levels_others_are_errors() -> None:
    for count in (1, 2, 3, 4):
        assert create_hjepa("vit_tiny_patch4_32", num_hierarchies=count, **{**TINY, "encoder_depth": 4}).num_levels == (
            count
        )
    for count in (0, 5):
        with pytest.raises(ConfigError, match=r"model\.num_hierarchies"):
            create_hjepa("vit_tiny_patch4_32", num_hierarchies=count, **TINY)


def test_hierarchies__of_14x14_tokens_have_7x7_4x4_and_2x2_cells_that_count_no_padding() -> None:
    model = create_hjepa("vit_tiny_patch2_28", num_hierarchies=4, **{**TINY, "encoder_depth": 4}).eval()
    assert model.level_shapes() == [(14, 14), (7, 7), (4, 4), (2, 2)]
    with torch.no_grad():
        features = [model.extract_features(noise(2, 28), level) for level in range(4)]
        tokens = model.target_encoder(noise(2, 28))[3].reshape(2, 14, 14, 192)
    assert [level.shape[1] for level in features] == [196, 49, 16, 4]
    # The first cell of level 3 holds 8x8 tokens, the last one the 6x6 that are left.
    torch.testing.assert_close(features[3][:, 0], tokens[:, :8, :8].mean(dim=(1, 2)))
    torch.testing.assert_close(features[3][:, 3], tokens[:, 8:, 8:].mean(dim=(1, 2)))


@pytest.mark.rows("A9")
def test_hierarchies__groups_never_wrap_around_rows() -> None:
    columns = torch.arange(14.0).repeat(14).reshape(1, 196, 1)
    pooled = pool_cells(columns, (14, 14), 1).reshape(7, 7)
    assert torch.equal(pooled, (2 * torch.arange(7.0) + 0.5).expand(7, 7))


@pytest.mark.rows("A10")
def test_heads__one_per_level_on_the_prediction_side_and_targets_are_normalised_without_parameters() -> None:
    model = create_hjepa("vit_tiny_patch4_32", **TINY).eval()
    mask = torch.cat((torch.ones(2, 32), torch.zeros(2, 32)), dim=1)
    with torch.no_grad():
        before = model(noise(2, 32), mask)
        for parameter in model.heads[1].parameters():
            parameter += 0.5
        after = model(noise(2, 32), mask)
    changed = [not torch.equal(a, b) for a, b in zip(before["predictions"], after["predictions"], strict=True)]
    assert changed == [False, True, False]
    for old, new in zip(before["targets"], after["targets"], strict=True):
        assert torch.equal(old, new)
        torch.testing.assert_close(old.mean(dim=-1), torch.zeros(old.shape[:2]), atol=1e-5, rtol=0)
        torch.testing.assert_close(old.std(dim=-1, correction=0), torch.ones(old.shape[:2]), atol=1e-3, rtol=0)


@pytest.mark.rows("A11")
@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_padding__gets_zero_gradient_from_the_loss_to_the_pixels(mode: str) -> None:
    model = create_hjepa("vit_tiny_patch2_28", mask_mode=mode, **TINY)
    mask = torch.zeros(3, 14, 14)
    mask[0, :4, :6], mask[1, :10], mask[2, 5:] = 1, 1, 1  # other counts in every image; image 0 hides token 0
    images = noise(3, 28).requires_grad_()
    outputs = model(images, mask.flatten(1))
    for prediction in outputs["predictions"]:
        prediction.retain_grad()
    loss, _ = hierarchical_loss(outputs["predictions"], outputs["targets"], outputs["valid"], weights=(1, 1, 1))
    torch.autograd.backward(loss)
    for prediction, valid in zip(outputs["predictions"], outputs["valid"], strict=True):
        assert prediction.grad is not None
        assert not bool(valid.all())
        assert bool((prediction.grad[~valid] == 0).all())
        assert bool((prediction.grad[valid] != 0).any(dim=-1).all())
    # Padded context slots hold token 0: where that is hidden, its pixels must not matter either.
    assert images.grad is not None
    hidden = mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).bool().unsqueeze(1).expand(-1, 3, -1, -1)
    assert bool((images.grad[hidden] == 0).all())
    assert bool((images.grad[~hidden] != 0).any())


@pytest.mark.rows("A15")
def test_masks__one_is_masked_here_and_true_is_use_in_the_other_document() -> None:
    model = create_hjepa("vit_tiny_patch4_32", **TINY).eval()
    masked = torch.cat((torch.ones(2, 40), torch.zeros(2, 24)), dim=1)
    with torch.no_grad():
        first = model(noise(2, 32), masked)
        second = model(noise(2, 32), masks_from_used(masked == 0, (masked == 1).unsqueeze(1)))
    for name in ("predictions", "targets", "valid"):
        assert all(torch.equal(a, b) for a, b in zip(first[name], second[name], strict=True)), name

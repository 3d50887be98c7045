from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.masks import MultiBlockMaskGenerator, masks_from_masked
from hjepa_pretrain.models import (
    HJEPA,
    ContextEncoder,
    Predictor,
    TargetEncoder,
    create_hjepa,
    create_hjepa_from_config,
)
from hjepa_pretrain.runs.files import run_config, run_transform, write_config
from hjepa_pretrain.training.optimizer import make_optimizer
from safetensors.torch import save_file

from hjepa_eval.config import build
from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.vit import create_vit, pool_cells
from hjepa_eval.errors import ConfigError, TrainingError, UnknownNameError

SMALL: dict[str, Any] = {
    "encoder_depth": 3,
    "predictor": {"embed_dim": 48, "depth": 2, "num_heads": 3},
}


def small(**options: Any) -> HJEPA:
    return create_hjepa("vit_tiny_patch4_32", **{**SMALL, **options}).eval()


def photographs(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def half_masked(count: int = 4) -> torch.Tensor:
    mask = torch.zeros(count, 64)
    mask[:, :32] = 1
    return mask


@pytest.mark.rows("A4")
def test_target_encoder__equals_context_at_step_zero() -> None:
    model = small(drop_path=0.2)
    for mine, other in zip(
        model.target_encoder.vit.state_dict().values(), model.context_encoder.vit.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other)
    assert not any(parameter.requires_grad for parameter in model.target_encoder.parameters())
    assert not model.train().target_encoder.vit.training


def test_target_encoder__update_is_the_moving_average_of_parameters() -> None:
    context = ContextEncoder(create_vit("vit_tiny_patch4_32", depth=1), taps=(1,))
    target = TargetEncoder(context)
    before = target.vit.patch_embed.proj.weight.clone()
    with torch.no_grad():
        context.vit.patch_embed.proj.weight += 1
    target.update(context, 0.9)
    torch.testing.assert_close(target.vit.patch_embed.proj.weight, before + 0.1)


def test_update_target_encoder__returns_the_momentum_of_the_schedule() -> None:
    config = {"model": {"encoder_type": "vit_tiny_patch4_32", **SMALL, "ema": {"momentum": 0.9, "momentum_end": 1.0}}}
    model = create_hjepa_from_config(config, total_steps=11)
    assert model.update_target_encoder(current_step=0) == pytest.approx(0.9)
    assert model.update_target_encoder(current_step=10) == pytest.approx(1.0)


@pytest.mark.rows("A3")
@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("class_token", [False, True])
def test_zero_mode__with_a_key_mask_equals_drop_mode(class_token: bool, positions: str) -> None:
    vit = create_vit("vit_tiny_patch4_32", depth=3, class_token=class_token, global_pool="", positions=positions).eval()
    drop, zero = (ContextEncoder(vit, taps=(1, 2, 3), mask_mode=mode) for mode in ("drop", "zero"))
    context = torch.rand(4, 64, generator=torch.Generator().manual_seed(2)).topk(20).indices
    with torch.no_grad():
        dropped, hidden = drop(photographs(), context), zero(photographs(), context, hide_zeroed=True)
        literal = zero(photographs(), context)
    for a, b in zip(dropped, hidden, strict=True):
        assert a.shape == (4, 20 + class_token, 192)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert (dropped[-1] - literal[-1]).abs().max() > 0.01


@pytest.mark.rows("A3")
@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_context_encoder__hidden_pixels_do_not_leak(mode: str) -> None:
    encoder = ContextEncoder(create_vit("vit_tiny_patch4_32", depth=2).eval(), taps=(1, 2), mask_mode=mode)
    masks = masks_from_masked(half_masked())
    images = photographs()
    changed = images.clone()
    changed[:, :, :16] = 7.0
    with torch.no_grad():
        for a, b in zip(encoder(images, masks.context), encoder(changed, masks.context), strict=True):
            assert torch.equal(a, b)


def test_context_encoder__padded_context_does_not_matter() -> None:
    encoder = ContextEncoder(create_vit("vit_tiny_patch4_32", depth=2).eval(), taps=(1, 2))
    short = torch.arange(10).expand(2, -1)
    padded = torch.cat((short, torch.zeros(2, 6, dtype=torch.int64)), dim=1)
    valid = torch.arange(16).expand(2, -1) < 10
    with torch.no_grad():
        a, b = encoder(photographs(2), short)[-1], encoder(photographs(2), padded, valid=valid)[-1]
    torch.testing.assert_close(a, b[:, : a.shape[1]], atol=1e-5, rtol=1e-4)


def test_context_encoder__whole_image_equals_timm() -> None:
    vit = create_vit("vit_tiny_patch4_32", depth=3).eval()
    with torch.no_grad():
        ours = ContextEncoder(vit, taps=(1, 3))(photographs())
        theirs = vit.forward_intermediates(photographs(), indices=[0], norm=True, output_fmt="NLC")
    torch.testing.assert_close(ours[0][:, 1:], theirs[1][0])
    torch.testing.assert_close(ours[1], theirs[0])


def test_forward__returns_one_entry_per_level_with_shapes_of_document_000() -> None:
    outputs = small()(photographs(), half_masked(), return_all_levels=True)
    assert [list(p.shape) for p in outputs["predictions"]] == [[4, 32, 192], [4, 16, 192], [4, 4, 192]]
    assert [list(t.shape) for t in outputs["targets"]] == [[4, 32, 192], [4, 16, 192], [4, 4, 192]]
    assert [v.sum().item() for v in outputs["valid"]] == [4 * 32, 4 * 8, 4 * 2]
    assert not any(target.requires_grad for target in outputs["targets"])


@pytest.mark.parametrize("choice", [{}, {"order": "coarse_to_fine"}, {"fpn": True}])
def test_forward__level_0_alone_is_what_it_is_among_all(choice: dict[str, Any]) -> None:
    model = small(predictor={**SMALL["predictor"], **choice})
    with torch.no_grad():
        every = model(photographs(), half_masked())
        alone = model(photographs(), half_masked(), return_all_levels=False)
    for name in ("predictions", "targets", "valid"):
        assert len(alone[name]) == 1
        torch.testing.assert_close(alone[name][0], every[name][0])


def test_forward__targets_are_normalised_pooled_tokens_of_the_target_encoder() -> None:
    model = small()
    with torch.no_grad():
        outputs = model(photographs(), half_masked())
        tokens = model.target_encoder(photographs())[1]
    expected = torch.nn.functional.layer_norm(pool_cells(tokens, (8, 8), 1), (192,))
    torch.testing.assert_close(outputs["targets"][1], expected)


def test_forward__counts_that_differ_between_images_are_padded_and_padding_is_free() -> None:
    model = small()
    mask = half_masked(2)
    mask[0, 10:32] = 0
    with torch.no_grad():
        both = model(photographs(2), mask)
        alone = model(photographs(2)[:1], mask[:1])
    assert both["valid"][0].sum(dim=1).tolist() == [10, 32]
    torch.testing.assert_close(both["predictions"][0][:1, :10], alone["predictions"][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both["predictions"][2][:1], alone["predictions"][2], atol=1e-5, rtol=1e-4)


def test_forward__boolean_mask_is_an_error() -> None:
    with pytest.raises(TrainingError, match="ambiguous"):
        small()(photographs(), half_masked().bool())


@pytest.mark.rows("A7")
@pytest.mark.parametrize("choice", [{}, {"order": "coarse_to_fine"}, {"fpn": True}])
def test_predictor__indexed_and_binary_forms_agree(choice: dict[str, Any]) -> None:
    model = small(predictor={**SMALL["predictor"], **choice})
    mask = (torch.rand(4, 64, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    masks = masks_from_masked(mask)
    with torch.no_grad():
        tokens = model.context_encoder(photographs())[-1]
        seen = tokens.gather(1, masks.context.unsqueeze(-1).expand(-1, -1, 192))
        asked = [masks.targets, None, None]
        indexed, *_ = model.predictor(seen, masks.context, asked, context_valid=masks.context_valid)
        whole = model.predictor.predict_masked(tokens, mask)
    image, slot = masks.targets_valid.nonzero(as_tuple=True)
    torch.testing.assert_close(whole[image, masks.targets[image, slot]], indexed[image, slot], atol=1e-5, rtol=1e-4)
    assert (whole[mask == 0] == 0).all()


@pytest.mark.rows("A7")
def test_predictor__answers_differ_between_places_and_do_not_depend_on_other_questions() -> None:
    predictor = small().predictor
    tokens, context = torch.randn(2, 5, 192), torch.arange(5).expand(2, -1)
    with torch.no_grad():
        few = predictor(tokens, context, [torch.tensor([[10, 20], [30, 40]])])[0]
        many = predictor(tokens, context, [torch.tensor([[10, 20, 21], [30, 40, 41]]), None])[0]
    torch.testing.assert_close(few, many[:, :2], atol=1e-5, rtol=1e-4)
    assert (few[:, 0] - few[:, 1]).abs().max() > 1e-3


@pytest.mark.rows("A9")
def test_pooling__cells_are_two_dimensional() -> None:
    rows, columns = 14, 14
    coordinates = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float().unsqueeze(0)
    pooled = pool_cells(coordinates, (rows, columns), 2).reshape(4, 4, 2)
    assert pooled[0, 0].tolist() == [1.5, 1.5]
    assert pooled[1, 2].tolist() == [5.5, 9.5]
    assert pooled[3, 3].tolist() == [12.5, 12.5]


@pytest.mark.rows("A12")
def test_extract_features__gives_cells_of_each_level_from_both_encoders() -> None:
    model = small()
    with torch.no_grad():
        shapes = [list(model.extract_features(photographs(), level).shape) for level in range(3)]
        same = model.extract_features(photographs(), 1), model.extract_features(photographs(), 1, encoder="context")
        head = model.extract_features(photographs(), 1, head=True)
    assert shapes == [[4, 64, 192], [4, 16, 192], [4, 4, 192]]
    torch.testing.assert_close(*same)
    assert (head - same[0]).abs().max() > 0.01
    with pytest.raises(UnknownNameError, match="unknown level 3; known: 0, 1, 2"):
        model.extract_features(photographs(), 3)


@pytest.mark.rows("A14")
def test_parameters__vit_base_counts_of_document_000() -> None:
    config = {"embed_dim": 512, "num_heads": 8}
    with torch.device("meta"):
        model = create_hjepa("vit_base_patch16_224", embed_dim=768, predictor=config, positions="learned")
    counts = model.parameter_counts()
    millions = {name: round(count / 1e6, 1) for name, count in counts.items()}
    assert millions["context_encoder"] == millions["target_encoder"] == 85.8
    assert millions["predictor"] == 19.7
    assert millions["heads"] == 1.8
    assert millions["total"] == pytest.approx(193.1, abs=0.1)
    assert millions["trainable"] == pytest.approx(107.3, abs=0.1)


def test_parameters__only_the_target_encoder_and_fixed_positions_get_no_gradient() -> None:
    model = small()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name in frozen if not name.startswith("target_encoder.")} == {"context_encoder.vit.pos_embed"}
    outputs = model(photographs(), half_masked())
    sum(prediction.sum() for prediction in outputs["predictions"]).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_create__same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = small(), small()
    assert torch.equal(torch.rand(1), expected)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.rows("A13")
def test_create__unknown_key_and_wrong_width_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'model.tap' \(did you mean 'taps'\?\)"):
        create_hjepa("vit_tiny_patch4_32", tap="final")
    with pytest.raises(ConfigError, match="embed_dim 768 disagrees with the 192"):
        create_hjepa("vit_tiny_patch4_32", embed_dim=768, predictor=SMALL["predictor"])


def test_forward__takes_masks_of_the_generator() -> None:
    masks = MultiBlockMaskGenerator(32, 4, min_keep=24).sample(4, step=0, context_tokens=24, target_tokens=16)
    outputs = small()(photographs(), masks)
    assert list(outputs["predictions"][0].shape) == [4, 16, 192]


def test_forward__predicting_for_a_part_of_the_batch_gives_that_part() -> None:
    model = small()
    with torch.no_grad():
        whole = model(photographs(), half_masked())
        part = model(photographs(), half_masked(), num_predicted=2)
    for name in ("predictions", "targets"):
        for a, b in zip(whole[name], part[name], strict=True):
            torch.testing.assert_close(a[:2], b, atol=1e-5, rtol=1e-4)
    assert [len(valid) for valid in part["valid"]] == [2, 2, 2]


def sharpen(vit: Any) -> Any:
    """Make fresh attention care about its scores: they are all nearly equal otherwise."""
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight *= 8
    return vit.eval()


@pytest.mark.rows("F")
@pytest.mark.parametrize(("positions", "matters"), [("rope", True), ("none", False)])
def test_rope__where_patches_lie_changes_features(positions: str, matters: bool) -> None:
    """Patches of one colour each, mirrored, are the same set of patches: without positions nothing would change."""
    options = {"pos_embed": "none"} if positions == "none" else {"positions": positions}
    vit = sharpen(create_vit("vit_tiny_patch4_32", depth=3, class_token=False, global_pool="", **options))
    encoder = ContextEncoder(vit, taps=(3,))
    colours = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = colours.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    with torch.no_grad():
        change = (encoder(images)[-1].mean(dim=1) - encoder(images.flip(3))[-1].mean(dim=1)).abs().max()
    assert change > 1e-2 if matters else change < 1e-5


@pytest.mark.parametrize("class_token", [False, True])
def test_rope__a_run_round_trips_through_the_toolkit(tmp_path: Path, class_token: bool) -> None:
    model = {"encoder_type": "vit_tiny_patch2_8", **SMALL, "positions": "rope", "class_token": class_token}
    settings = build_settings({"model": model, "train": {"epochs": 1}}, "test")
    hjepa = create_hjepa_from_config(settings).eval()
    sharpen(hjepa.target_encoder.vit)
    geometry, dataset = resolve_geometry(settings), load_dataset("digits", "train")
    transform = run_transform(settings, geometry)
    write_config(tmp_path, run_config(settings, geometry, transform, dataset, len(dataset)))
    tensors = {f"target.{name}": tensor for name, tensor in hjepa.target_encoder.vit.state_dict().items()}
    save_file(tensors, tmp_path / "encoder.safetensors")
    loaded = load_encoder(str(tmp_path))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        outputs = loaded(images)
        expected = [hjepa.extract_features(images, level) for level in range(3)]
    for level, (output, cells) in enumerate(zip(outputs, expected, strict=True)):
        assert loaded.levels[level].prefix == class_token
        torch.testing.assert_close(output[:, class_token:], cells, atol=1e-5, rtol=1e-5)


@pytest.mark.rows("F")
def test_layer_scale__scales_every_branch_and_is_learned_without_decay() -> None:
    model = small(layer_scale=1e-6)
    scales = [scale for block in model.context_encoder.vit.blocks for scale in (block.ls1.gamma, block.ls2.gamma)]
    assert len(scales) == 6
    assert all((scale == 1e-6).all() and scale.requires_grad for scale in scales)
    settings = build_settings({"train": {"epochs": 1}}, "test")
    decayed, others = (group["params"] for group in make_optimizer(model, settings.train).param_groups)
    assert {id(scale) for scale in scales} <= {id(parameter) for parameter in others}
    assert len(decayed) > 0
    vit = model.context_encoder.vit
    with torch.no_grad():
        output = model.context_encoder(photographs())[-1]
        embedded = vit.norm(vit._pos_embed(vit.patch_embed(photographs())))
        torch.testing.assert_close(output, embedded, atol=1e-4, rtol=1e-4)  # Branches that are scaled away.
        assert (small().context_encoder(photographs())[-1] - embedded).abs().max() > 0.1


def levels_moved_by(order: str, moved: int) -> list[bool]:
    """Tell which levels' answers change when the queries of level `moved` do."""
    predictor = small(predictor={**SMALL["predictor"], "order": order}).predictor
    with torch.no_grad():
        for block in predictor.blocks:
            block.attn.qkv.weight *= 8
        tokens, context = torch.randn(2, 5, 192), torch.arange(5).expand(2, -1)
        asked = [torch.tensor([[10, 20], [30, 40]]), None, None]
        before = predictor(tokens, context, asked)
        predictor.level_embed[moved] += torch.randn(48)
        after = predictor(tokens, context, asked)
    return [bool((a - b).abs().max() > 1e-4) for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("order", "moved", "expected"),
    [
        ("coarse_to_fine", 0, [True, False, False]),
        ("coarse_to_fine", 1, [True, True, False]),
        ("coarse_to_fine", 2, [True, True, True]),
        ("parallel", 2, [False, False, True]),
    ],
)
def test_order__fine_answers_see_coarse_queries_and_never_the_other_way(
    order: str, moved: int, expected: list[bool]
) -> None:
    assert levels_moved_by(order, moved) == expected


def test_order__coarse_to_fine_with_padding_equals_each_image_alone() -> None:
    model = small(predictor={**SMALL["predictor"], "order": "coarse_to_fine"})
    mask = half_masked(2)
    mask[0, 10:32] = 0
    with torch.no_grad():
        both, alone = model(photographs(2), mask), model(photographs(2)[:1], mask[:1])
    torch.testing.assert_close(both["predictions"][0][:1, :10], alone["predictions"][0], atol=1e-5, rtol=1e-4)
    for level in (1, 2):
        torch.testing.assert_close(both["predictions"][level][:1], alone["predictions"][level], atol=1e-5, rtol=1e-4)


@pytest.mark.rows("F")
@pytest.mark.parametrize("global_query", [False, True])
def test_fpn__an_answer_adds_that_of_the_cell_it_lies_in(global_query: bool) -> None:
    """A 14x14 grid has 7x7 and 4x4 cells: those at the border hold fewer tokens."""
    options = {"encoder_dim": 16, "grid": (14, 14), "num_levels": 3, "embed_dim": 48, "depth": 1, "num_heads": 3}
    plain, pyramid = (Predictor(**options, fpn=fpn, global_query=global_query).eval() for fpn in (False, True))
    pyramid.load_state_dict(plain.state_dict())
    tokens, context = torch.randn(2, 5, 16), torch.arange(5).expand(2, -1)
    asked = torch.tensor([[0, 17, 195], [14, 97, 182]])
    with torch.no_grad():
        own = plain(tokens, context, [asked, None, None])
        summed = pyramid(tokens, context, [asked, None, None])
    assert torch.equal(summed[2], own[2])
    for cell in range(49):
        parent = (cell // 7 // 2) * 4 + cell % 7 // 2
        torch.testing.assert_close(summed[1][:, cell], own[1][:, cell] + own[2][:, parent])
    for image in range(2):
        for slot, token in enumerate(asked[image].tolist()):
            parent = (token // 14 // 2) * 7 + token % 14 // 2
            torch.testing.assert_close(summed[0][image, slot], own[0][image, slot] + summed[1][image, parent])
    assert len(summed) == 3 + global_query
    if global_query:
        assert torch.equal(summed[3], own[3])


def with_global_query() -> HJEPA:
    config = {
        "model": {"encoder_type": "vit_tiny_patch4_32", **SMALL},
        "data": {"augmentation": "asym+global"},
        "train": {"whole_image": {"predict": 1.0}},
    }
    return create_hjepa_from_config(config).eval()


def test_global_query__predicts_the_mean_token_of_another_view() -> None:
    model = with_global_query()
    other = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    seen = torch.arange(20, 44).expand(1, 4, -1)
    outputs = model(photographs(), half_masked(), other_images=other, other_context=seen, num_predicted=3)
    assert outputs["global_prediction"].shape == outputs["global_target"].shape == (3, 192)
    with torch.no_grad():
        mean = model.target_encoder(other[0, :3], seen[0, :3])[-1].mean(dim=1)
        changed = model(photographs(), half_masked(), other_images=other + 1, other_context=seen, num_predicted=3)
    torch.testing.assert_close(outputs["global_target"], torch.nn.functional.layer_norm(mean, (192,)))
    assert (changed["global_target"] - outputs["global_target"]).abs().max() > 1e-3
    torch.testing.assert_close(changed["global_prediction"], outputs["global_prediction"])
    assert "global_target" not in model(photographs(), half_masked())


def test_global_query__no_gradient_flows_into_the_target() -> None:
    model = with_global_query()
    other = torch.randn(1, 4, 3, 32, 32, requires_grad=True)
    seen = torch.arange(24).expand(1, 4, -1)
    outputs = model(photographs(), half_masked(), other_images=other, other_context=seen)
    assert not outputs["global_target"].requires_grad
    torch.nn.functional.mse_loss(outputs["global_prediction"], outputs["global_target"]).backward()
    assert other.grad is None or not other.grad.any()
    assert all(parameter.grad is None for parameter in model.target_encoder.parameters())
    assert model.predictor.level_embed.grad[-1].any()
    assert all(parameter.grad.any() for parameter in model.global_head.parameters())


@pytest.mark.rows("F")
@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_checkpoint_activations__same_loss_and_gradients_with_dropped_paths(positions: str) -> None:
    model = small(positions=positions, drop_path=0.5).train()
    masks = MultiBlockMaskGenerator(32, 4, min_keep=24).sample(4, step=0, context_tokens=24, target_tokens=16)
    passes: list[int] = []
    model.context_encoder.vit.blocks[1].register_forward_pre_hook(lambda *_: passes.append(1))
    model.predictor.blocks[1].register_forward_pre_hook(lambda *_: passes.append(2))

    def losses_and_gradients(checkpointed: bool, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.context_encoder.checkpoint_activations = model.predictor.checkpoint_activations = checkpointed
        model.zero_grad(set_to_none=True)
        passes.clear()
        torch.manual_seed(seed)
        outputs = model(photographs(), masks)
        pairs = zip(outputs["predictions"], outputs["targets"], strict=True)
        loss = torch.stack([torch.nn.functional.mse_loss(*pair) for pair in pairs]).sum()
        loss.backward()
        assert sorted(passes) == ([1, 1, 2, 2] if checkpointed else [1, 2])
        return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    plain, gradients = losses_and_gradients(False, seed=1)
    loss, again = losses_and_gradients(True, seed=1)
    assert torch.equal(loss, plain)
    for mine, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-5)
    assert not torch.equal(losses_and_gradients(True, seed=2)[0], plain)  # Other paths are dropped.


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("class_token", [False, True])
def test_saliency__is_the_attention_that_the_last_block_pays(class_token: bool, positions: str) -> None:
    model = small(positions=positions, class_token=class_token)
    encoder = model.target_encoder
    attention = sharpen(encoder.vit).blocks[-1].attn
    attention.fused_attn = False  # So that attention is computed, and passes by attn_drop.
    paid: list[torch.Tensor] = []
    hook = attention.attn_drop.register_forward_hook(lambda _, inputs, output: paid.append(inputs[0]))
    with torch.no_grad():
        encoder(photographs())
        hook.remove()
        saliency = encoder.saliency(photographs())
    assert saliency.shape == (4, 64)
    torch.testing.assert_close(saliency, paid[0].mean(dim=(1, 2))[:, class_token:], atol=1e-6, rtol=1e-4)
    sums = saliency.sum(dim=1)
    if class_token:
        assert (sums < 1).all()
    else:
        torch.testing.assert_close(sums, torch.ones(4))
    assert (saliency.max(dim=1).values > 1.5 / 64).all()


def test_projections__padding_and_class_token_do_not_count() -> None:
    settings = build(
        PretrainSettings,
        {
            "model": {"encoder_type": "vit_tiny_patch4_32", **SMALL, "class_token": True},
            "train": {"epochs": 1, "whole_image": {"variance": 1.0, "hidden_dim": 16, "out_dim": 8}},
        },
        "test",
    )
    model = create_hjepa_from_config(settings).eval()
    masked = torch.ones(4, 64)
    masked[:, :16] = 0
    alone = model(photographs(), masked)["projections"]
    masked[1:, :40] = 0  # Now the first image has 16 tokens and 24 of padding.
    beside = model(photographs(), masked)["projections"]
    torch.testing.assert_close(beside[0, 0], alone[0, 0], atol=1e-5, rtol=1e-4)
    assert (beside[0, 1] - alone[0, 1]).abs().max() > 1e-3
    tokens = model.context_encoder(photographs(), torch.arange(16).expand(4, -1))[-1]
    torch.testing.assert_close(alone[0], model.projector([tokens[:, 1:].mean(dim=1)])[0])


def test_drop_path__rises_over_the_blocks_of_encoder_and_predictor() -> None:
    model = small(drop_path=0.2)
    for blocks in (model.context_encoder.vit.blocks, model.predictor.blocks):
        rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
        assert rates[0] == 0.0
        assert rates[-1] == pytest.approx(0.2)

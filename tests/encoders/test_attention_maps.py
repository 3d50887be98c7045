"""Attention maps against attention computed another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from needed_tools import need_module
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level, load_encoder
from hjepa_eval.encoders.attention import attention_maps, attention_weights, check_attention
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import EncoderError

VIT = "random:vit_tiny_patch4_16?levels=2"


def rope_encoder() -> ViTEncoder:
    model = create_vit("vit_tiny_patch4_16", seed=3, positions="rope", depth=3)
    return ViTEncoder(model, "rope", taps=(1, 3), transform=Transform(16, 16), architecture={})


def inside(encoder: Any, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """What goes in and out of every block's attention, by hooks on timm's own modules."""
    seen: list[dict[str, torch.Tensor]] = []
    handles = []
    for block in encoder.model.blocks:
        handles.append(
            block.attn.qkv.register_forward_hook(lambda _, __, out: seen.append({"qkv": out}))  # q, k and v in one
        )
        handles.append(block.attn.proj.register_forward_pre_hook(lambda _, args: seen[-1].update(out=args[0])))
    with torch.inference_mode():
        encoder(images)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.rows("E5")
@pytest.mark.parametrize("build", [lambda: load_encoder(VIT), rope_encoder], ids=["learned", "rope"])
def test_attention_maps__equal_what_hooks_see(build: Any) -> None:
    encoder = build()
    images = torch.randn(3, 3, 16, 16)
    maps = attention_maps(encoder, images)
    blocks = inside(encoder, images)
    tokens = encoder.levels[0].tokens
    assert maps.shape == (len(blocks), 3, 3, tokens, tokens)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), rtol=0, atol=1e-5)
    for number, block in enumerate(blocks):
        module = encoder.model.blocks[number].attn
        query, key, value = block["qkv"].reshape(3, tokens, 3, 3, 64).permute(2, 0, 3, 1, 4)
        query, key = module.q_norm(query), module.k_norm(key)
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / 8
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(maps[number], weights, rtol=0, atol=1e-5)
        mixed = (maps[number] @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(mixed, block["out"], rtol=0, atol=1e-5)


def test_attention_maps__rotary_positions_are_in_them() -> None:
    encoder, images = rope_encoder(), torch.randn(1, 3, 16, 16)
    turned = attention_maps(encoder, images)
    for block in encoder.model.blocks:
        block.attn.q_norm = block.attn.k_norm = nn.Identity()
    assert (turned - attention_maps(encoder, images)).abs().max() > 1e-3


def test_attention_maps__an_encoder_that_does_not_use_the_fused_kernel_gives_the_same_and_stays_so() -> None:
    encoder, images = load_encoder(VIT), torch.randn(1, 3, 16, 16)
    wanted = attention_maps(encoder, images)
    for block in encoder.model.blocks:
        block.attn.fused_attn = False
    encoder.train()
    torch.testing.assert_close(attention_maps(encoder, images), wanted)
    assert not any(block.attn.fused_attn for block in encoder.model.blocks)
    assert all(module.training for module in encoder.modules())


def test_attention_maps__blocks_after_the_deepest_tap_are_not_there() -> None:
    encoder = load_encoder("random:vit_tiny_patch4_16?taps=2,5")
    assert attention_maps(encoder, torch.randn(2, 3, 16, 16)).shape == (5, 2, 3, 17, 17)


def test_attention_maps__are_float32_and_near_the_same_under_autocast() -> None:
    encoder, images = load_encoder(VIT), torch.randn(1, 3, 16, 16)
    wanted = attention_maps(encoder, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_maps(encoder, images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3)


def test_attention_maps__equal_output_attentions_of_transformers(tmp_path: Path) -> None:
    transformers = need_module("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    torch.manual_seed(1)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    images = torch.randn(2, 3, 32, 32)
    encoder.model.config._attn_implementation = "eager"  # transformers returns attentions in this mode only
    with torch.inference_mode():
        wanted = encoder.model(images, output_attentions=True).attentions
    maps = attention_maps(encoder, images)
    assert encoder.model.config._attn_implementation == "eager"
    assert maps.shape == (3, 2, 2, 17, 17)
    torch.testing.assert_close(maps, torch.stack(wanted), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.tensor([[True, True, False, True, False]] * 4 + [[True] * 5])},
        {"attn_mask": torch.linspace(-2, 2, 25).reshape(5, 5)},
        {"enable_gqa": True},
    ],
    ids=["plain", "scale", "causal", "bool mask", "float mask", "gqa"],
)
def test_attention_weights__times_values_are_what_torch_returns(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    heads = 2 if "enable_gqa" in options else 4
    query = torch.randn(2, 4, 5, 8)
    key, value = torch.randn(2, 2, heads, 5, 8)
    weights = attention_weights(query, key, **options)
    wide = value.repeat_interleave(4 // heads, dim=1)
    wanted = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(weights @ wide, wanted, rtol=0, atol=1e-5)


class TwoCalls(Encoder):
    """A block whose attention is the difference of two."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.name, self.calls, self.taps = "two", calls, (1,)
        self.levels, self.transform = (Level(0, "all", 3, (4, 4)),), Transform(4, 4)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        tokens = images.flatten(2).transpose(1, 2)[:, None]
        for _ in range(self.calls):
            tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return [tokens[:, 0]]


def test_attention_maps__of_a_users_own_encoder_need_one_attention_per_block() -> None:
    assert attention_maps(TwoCalls(1), torch.randn(2, 3, 4, 4)).shape == (1, 2, 1, 16, 16)
    with pytest.raises(EncoderError, match="2 attentions were seen in 1 blocks"):
        attention_maps(TwoCalls(2), torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("pixels:8", "no attention was seen"),
        ("random:resnet10t", "no attention was seen"),
        ("random:swin_tiny_patch4_window7_224", "not over all 3136 tokens of level 0"),
    ],
)
def test_attention_maps__encoders_without_attention_over_one_grid_are_refused(spec: str, part: str) -> None:
    encoder = load_encoder(spec)
    size = encoder.transform.size
    with pytest.raises(EncoderError, match=part) as caught:
        attention_maps(encoder, torch.zeros(1, 3, size, size))
    assert "choose a ViT" in str(caught.value)
    assert "\n" not in str(caught.value)


class TorchTransformer(nn.Module):
    """Patches through torch's own layers, with the batch first or second inside."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.embed, self.batch_first = nn.Conv2d(3, 16, 4, 4), batch_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.body(tokens) if self.batch_first else self.body(tokens.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_maps__of_torchs_own_transformer_are_those_that_it_gives_when_asked(batch_first: bool) -> None:
    torch.manual_seed(0)
    network = TorchTransformer(batch_first)
    encoder = load_encoder(network, layers=["output"], transform=Transform(16, 16))
    images = torch.randn(3, 3, 16, 16)
    maps = attention_maps(encoder, images)
    assert maps.shape == (2, 3, 2, 16, 16)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 2, 16))
    with torch.no_grad():
        tokens = network.embed(images).flatten(2).transpose(1, 2)
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        attention = network.body.layers[0].self_attn
        _, expected = attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(maps[0], expected, rtol=1e-4, atol=1e-5)


def test_check_attention__says_before_any_work_what_cannot_be_shown() -> None:
    with pytest.raises(EncoderError, match="no attention was seen"):
        check_attention(load_encoder("random:resnet10t"))
    check_attention(load_encoder("random:vit_tiny_patch8_32"))

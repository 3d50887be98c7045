from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level, load_encoder
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import EncoderError, UnknownNameError
from hjepa_eval.finetune.classifier import Classifier


def small_vit(depth: int = 3) -> ViTEncoder:
    vit = create_vit("vit_tiny_patch4_8", depth=depth, embed_dim=24, num_heads=3)
    taps = tuple(range(1, depth + 1))[:2]
    return ViTEncoder(vit, "small", taps=taps, transform=Transform(8, 8), architecture={})


def classifier(encoder: Encoder, level: int = 0, readout: str = "mean") -> Classifier:
    return Classifier(encoder, level=level, readout=readout, num_classes=10, seed=0, bf16=False)


class Mine(Encoder):
    """A user's encoder, whose layers timm does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.settings = "mine", {}
        self.levels = (Level(0, "fine", 6, (2, 2)), Level(1, "coarse", 6, (1, 1)))
        self.transform = Transform(8, 8)
        self.first, self.second = nn.Linear(48, 6), nn.Linear(6, 6)

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(images), 4, 48)
        fine = self.first(cells)
        return [fine, self.second(fine.mean(1, keepdim=True))]


def test_logits__are_the_head_on_the_levels_readout() -> None:
    encoder = small_vit().eval()
    images = torch.rand(3, 3, 8, 8)
    for readout, tokens in (("mean", slice(1, None)), ("cls", slice(0, 1))):
        for level in (0, 1):
            model = classifier(encoder, level, readout).eval()
            features = encoder(images)[level][:, tokens].mean(1)
            torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)


def test_layer_decay__halves_the_rate_of_each_of_three_blocks() -> None:
    vit = create_vit("vit_tiny_patch4_8", depth=3, embed_dim=24, num_heads=3)
    encoder = ViTEncoder(vit, "small", taps=(3,), transform=Transform(8, 8), architecture={})
    model = classifier(encoder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales, decays = {}, {}
    for group in model.groups(layer_decay=0.5, weight_decay=0.05):
        for parameter in group["params"]:
            scales[names[id(parameter)]] = group["lr_scale"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert scales.keys() == model.trained().keys()
    expected = {
        "head.": 1,
        "encoder.model.norm.": 1 / 2,
        "encoder.model.blocks.2.": 1 / 2,
        "encoder.model.blocks.1.": 1 / 4,
        "encoder.model.blocks.0.": 1 / 8,
        "encoder.model.patch_embed.": 1 / 16,
        "encoder.model.pos_embed": 1 / 16,
        "encoder.model.cls_token": 1 / 16,
    }
    for name, scale in scales.items():
        assert scale == next(value for prefix, value in expected.items() if name.startswith(prefix)), name
    undecayed = {name for name, decay in decays.items() if decay == 0}
    assert {"encoder.model.pos_embed", "encoder.model.cls_token", "head.bias"} <= undecayed
    assert decays["encoder.model.blocks.0.mlp.fc1.weight"] == 0.05
    assert all(name in undecayed for name in decays if name.endswith("bias") or "norm" in name)


def test_layer_decay__counts_from_the_levels_tap() -> None:
    model = classifier(small_vit(), level=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {
        names[id(parameter)]: group["lr_scale"]
        for group in model.groups(layer_decay=0.5, weight_decay=0.0)
        for parameter in group["params"]
    }
    assert scales["encoder.model.blocks.1.attn.qkv.weight"] == 1 / 2
    assert scales["encoder.model.norm.weight"] == 1 / 2
    assert scales["encoder.model.blocks.0.attn.qkv.weight"] == 1 / 4
    assert not any(name.startswith("encoder.model.blocks.2") for name in scales)


def test_later_blocks__are_neither_computed_nor_trained() -> None:
    encoder = small_vit()
    model = classifier(encoder, level=0)

    def refuse(*_: object) -> None:
        raise AssertionError("block 2 lies beyond the tap of level 0")

    encoder.model.blocks[1].register_forward_pre_hook(refuse)
    model(torch.rand(2, 3, 8, 8))
    assert not any("blocks.1." in name or "blocks.2." in name for name in model.trained())
    assert len(model.encoder.levels) == 2


def test_stages__beyond_the_level_keep_their_running_statistics() -> None:
    encoder = load_encoder("random:resnet10t")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = classifier(encoder, level=1).train()
    model(torch.rand(4, 3, 64, 64)).sum().backward()
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {"conv1", "bn1", "layer1", "layer2"} & {
        name.split(".")[1] for name in changed
    }
    assert any(name.startswith("model.layer2") for name in changed)
    assert any(name.startswith("model.layer2") for name in (key.removeprefix("encoder.") for key in model.trained()))
    assert not any("layer3" in name or "layer4" in name for name in model.trained())


def test_users_encoder__is_one_layer() -> None:
    model = classifier(Mine(), level=1)
    assert model.layered is None
    scales = {group["lr_scale"] for group in model.groups(layer_decay=0.5, weight_decay=0.0)}
    assert scales == {1.0, 0.5}
    assert set(classifier(Mine(), level=0).trained()) == {
        "encoder.first.weight",
        "encoder.first.bias",
        "head.weight",
        "head.bias",
    }


def test_classifier__refuses_what_cannot_be_trained_or_is_not_there() -> None:
    with pytest.raises(EncoderError, match="no parameter that level 0 could train"):
        classifier(load_encoder("pixels:8"))
    with pytest.raises(UnknownNameError, match="'5'; known: 0, 1"):
        classifier(small_vit(), level=5)
    with pytest.raises(UnknownNameError, match="readout"):
        classifier(small_vit(), readout="sum")

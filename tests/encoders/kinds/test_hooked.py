"""Any module, any layer: what hooks read becomes levels, and what cannot be one is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.networks.layers import list_layers
from hjepa_eval.encoders.protocol import check_outputs
from hjepa_eval.errors import EncoderError, UnknownNameError

SMALL = Transform(32, 32)


class TokenNet(nn.Module):
    """A user's ViT of torch's own transformer layers, which returns a dict."""

    def __init__(self, dim: int = 16, *, batch_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 32, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.unused = nn.Linear(dim, dim)
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder(tokens if self.batch_first else tokens.transpose(0, 1))
        return {"tokens": tokens, "cls": tokens[:, 0]}


class UNet(nn.Module):
    """Two scales and a skip connection; the rectifiers work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.Upsample(scale_factor=2))
        self.up = nn.Conv2d(16, 4, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down(images)
        return self.up(torch.cat([fine, self.middle(fine)], dim=1))


class Returns(nn.Module):
    """A module whose part `layer` returns whatever `make` gives for images."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = Made(make)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Any:
        return self.layer(images * self.weight)


class Made(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, images: Tensor) -> Any:
        return self.make(images)


def shapes(encoder: Any) -> list[tuple[int, tuple[int, int], int]]:
    return [(level.dim, level.grid, level.prefix) for level in encoder.levels]


def test_module__resnet_of_torchvision_gives_its_maps_and_vectors_as_hooks_see_them() -> None:
    from torchvision.models import resnet18

    model = resnet18().eval()
    encoder = load_encoder(model, layers=["layer1", "layer4", "avgpool", "fc"], transform=Transform(64, 64))
    assert shapes(encoder) == [(64, (16, 16), 0), (512, (2, 2), 0), (512, (1, 1), 0), (1000, (1, 1), 0)]
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        outputs = encoder(images)
        check_outputs(encoder, outputs, 4)
        torch.testing.assert_close(outputs[3][:, 0], model(images))
        torch.testing.assert_close(outputs[1].mean(1), outputs[2][:, 0])
    assert not any(module._forward_hooks for module in model.modules())


def test_module__vit_of_torchs_layers_gives_cells_and_class_token_from_layers_inside_and_its_dict() -> None:
    layers = ["encoder.layers.0", "encoder.layers.1.self_attn", "output[cls]"]
    encoder = load_encoder(TokenNet(), layers=layers, transform=SMALL)
    assert shapes(encoder) == [(16, (4, 4), 1), (16, (4, 4), 1), (16, (1, 1), 0)]
    with torch.no_grad():
        check_outputs(encoder, encoder(torch.randn(5, 3, 32, 32)), 5)


def test_module__output_that_is_changed_in_place_later_is_read_as_it_was() -> None:
    model = UNet().eval()
    encoder = load_encoder(model, layers=["down.0", "middle.0", "up"], transform=SMALL)
    assert shapes(encoder) == [(8, (16, 16), 0), (8, (8, 8), 0), (4, (16, 16), 0)]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        convolved = encoder(images)[0]
        expected = model.down[0](images)
    assert (convolved < 0).any()
    torch.testing.assert_close(convolved, expected.flatten(2).transpose(1, 2))


def test_module__model_of_hugging_face_is_read_at_its_layers_and_its_last_hidden_state() -> None:
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    model = transformers.Dinov2Model(config)
    block = next(name for name, part in model.named_modules() if name.endswith("layer.1"))
    encoder = load_encoder(model, layers=[block, "output"])
    assert encoder.transform.size == 28
    assert "images 28x28" in encoder.notes[0]
    assert shapes(encoder) == [(32, (2, 2), 1)] * 2


def test_module__maps_with_channels_last_are_told_from_channels_first() -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    swin = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4])
    encoder = load_encoder(swin, layers=["features.1", "features.3"], transform=Transform(64, 64))
    assert shapes(encoder) == [(8, (16, 16), 0), (16, (8, 8), 0)]


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda x: x.flatten(2).permute(2, 0, 1), r"its batch is axis 1, not the first"),
        (lambda x: x.reshape(-1, 3, 16, 16), r"4 rows per image, as in windows"),
        (lambda x: x.mean(0), r"a level needs a first axis that counts images"),
        (lambda x: x.flatten(1) + torch.rand(1), "other values for the same images"),
        (lambda x: x.flatten(1) - x.flatten(1).mean(0), "when other images are beside it"),
        (lambda x: x[:, :, None, None], "vectors .B, D., tokens"),
        (lambda x: x.argmax(1), "no floating-point tensor"),
        (lambda x: {"a": x, "b": x}, r"several tensors: a \[3, 3, 32, 32\], b .*layer\[a\]"),
    ],
)
def test_module__layer_that_cannot_be_a_level_is_refused_in_one_line(make: Any, part: str) -> None:
    with pytest.raises(EncoderError, match=part) as caught:
        load_encoder(Returns(make), layers=["layer"], transform=SMALL)
    assert "\n" not in str(caught.value)


def test_module__tuple_gives_its_first_tensor_or_the_one_asked_for() -> None:
    model = Returns(lambda x: (x.flatten(1), x[:, :, 0, 0]))
    encoder = load_encoder(model, layers=["layer", "layer[1]"], transform=SMALL)
    assert shapes(encoder) == [(3072, (1, 1), 0), (3, (1, 1), 0)]


def test_module__typo_lists_the_nearest_names_and_what_is_never_called_is_said() -> None:
    with pytest.raises(UnknownNameError, match=r"no layer 'encoder.layer.0'; the nearest names are encoder\.layers\.0"):
        load_encoder(TokenNet(), layers=["encoder.layer.0"], transform=SMALL)
    with pytest.raises(EncoderError, match="layer unused of TokenNet is never called"):
        load_encoder(TokenNet(), layers=["unused"], transform=SMALL)
    with pytest.raises(EncoderError, match="has no levels; say which of its layers are"):
        load_encoder(TokenNet(), transform=SMALL)


def test_module__identical_layers_and_features_without_the_image_are_noted() -> None:
    same = load_encoder(TokenNet(), layers=["encoder.layers.2", "output[tokens]"], transform=SMALL)
    assert "identical layers: output[tokens] and encoder.layers.2" in " ".join(same.notes)
    constant = Returns(lambda x: x.new_ones(len(x), 4))
    assert "two images of noise give the same" in load_encoder(constant, layers=["layer"], transform=SMALL).notes[0]


def test_module__features_of_another_shape_for_other_images_are_refused() -> None:
    growing = Returns(lambda x: x.flatten(2).transpose(1, 2)[:, : 4 if x.mean() < 0.5 else 9])
    encoder = load_encoder(growing, layers=["layer"], transform=SMALL)
    with pytest.raises(EncoderError, match="one shape for all images"):
        encoder(torch.ones(2, 3, 32, 32))


def test_identity__changes_with_weights_and_with_code_and_stays_otherwise() -> None:
    def identity(model: nn.Module) -> dict[str, Any]:
        return load_encoder(model, layers=["layer"], transform=SMALL).identity()

    first, same = (identity(Returns(lambda x: x.mean((2, 3)))) for _ in range(2))
    assert first == same
    other = identity(Returns(lambda x: x.mean((2, 3)) * 3))
    assert other["weights"] == first["weights"]
    assert other["settings"]["outputs"] != first["settings"]["outputs"]


def test_identity__does_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    model, threads, hashes = TokenNet(64), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            encoder = load_encoder(model, layers=["encoder.layers.2"], transform=SMALL)
            hashes.append(encoder.settings["outputs"])
    finally:
        torch.set_num_threads(threads)
    assert hashes[0] == hashes[1]
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_list_layers__names_every_layer_with_the_shape_that_it_gives(tmp_path: Path) -> None:
    rows = {name: shape for name, _, shape in list_layers(TokenNet().eval(), torch.zeros(2, 3, 32, 32))}
    assert rows["embed"] == "[B, 16, 4, 4]"
    assert rows["encoder.layers.0"] == "[B, 17, 16]"
    assert rows["unused"] == "is not called"
    assert rows["output"] == "tokens [B, 17, 16], cls [B, 16]"

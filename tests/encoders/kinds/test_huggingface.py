"""Tiny random models saved by transformers, and transformers' own outputs for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from needed_tools import need_module
from safetensors.torch import load_file, save_file

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds.folder_files import read_transform
from hjepa_eval.encoders.protocol import check_outputs
from hjepa_eval.encoders.vit import pool_cells
from hjepa_eval.errors import CheckpointError, EncoderError, HjepaError, UnknownNameError

transformers = need_module("transformers")

SMALL = {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 32, "patch_size": 4}
# model_type: class, configuration, tokens before the grid
MODELS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "vit": ("ViTModel", "ViTConfig", {"intermediate_size": 48}, 1),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2}, 1),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"mlp_ratio": 2, "num_register_tokens": 4},
        5,
    ),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", {"intermediate_size": 48, "num_register_tokens": 3}, 4),
    "ijepa": ("IJepaModel", "IJepaConfig", {"intermediate_size": 48}, 0),
}
AVAILABLE = [name for name, (model, *_) in MODELS.items() if hasattr(transformers, model)]


def save_model(folder: Path, model_type: str, *, model_class: str | None = None, **changes: Any) -> Any:
    """Save a model with random weights, none of which is zero or one, and return it."""
    name, config_name, arguments, _ = MODELS[model_type]
    config = getattr(transformers, config_name)(**{**SMALL, **arguments, **changes})
    torch.manual_seed(1)
    model = getattr(transformers, model_class or name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def seen_by_hooks(model: Any, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Output of every block while transformers' own forward runs, and what that forward returns at the end."""
    seen: list[torch.Tensor] = []
    blocks = [module for name, module in model.named_modules() if type(module).__name__.endswith("Layer")]
    handles = [
        block.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in blocks
    ]
    with torch.inference_mode():
        last = model(images).last_hidden_state
    for handle in handles:
        handle.remove()
    assert len(seen) == SMALL["num_hidden_layers"]
    return seen, last


@pytest.mark.parametrize("model_type", AVAILABLE)
def test_hf__levels_equal_what_transformers_computes(tmp_path: Path, model_type: str) -> None:
    model, prefix = save_model(tmp_path, model_type), MODELS[model_type][3]
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.name_prefix() == ("class token", "register 1", "register 2", "register 3", "register 4")[:prefix]
    torch.manual_seed(2)
    images = torch.randn(2, 3, 32, 32)
    blocks, last = seen_by_hooks(model, images)
    with torch.inference_mode():
        outputs = encoder(images)
        norm = model.norm if model_type == "dinov3_vit" else model.layernorm
        wanted = [norm(blocks[tap - 1]) for tap in encoder.taps]
    check_outputs(encoder, outputs, 2)
    assert encoder.taps == (2, 3, 5)
    assert [(level.grid, level.prefix) for level in encoder.levels] == [
        ((8, 8), prefix),
        ((4, 4), prefix),
        ((2, 2), prefix),
    ]
    torch.testing.assert_close(wanted[-1], last, rtol=1e-5, atol=1e-6)  # the last tap is the model's own output
    for level, (output, tokens) in enumerate(zip(outputs, wanted, strict=True)):
        torch.testing.assert_close(output[:, :prefix], tokens[:, :prefix], rtol=1e-5, atol=1e-5)
        pooled = pool_cells(tokens[:, prefix:], (8, 8), level)
        torch.testing.assert_close(output[:, prefix:], pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", AVAILABLE)
def test_hf__another_image_size_equals_what_transformers_computes(tmp_path: Path, model_type: str) -> None:
    model, prefix = save_model(tmp_path, model_type), MODELS[model_type][3]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 48, "width": 48}}))
    encoder = load_encoder(f"hf:{tmp_path}?taps=5")
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        wanted = model(images, **({"interpolate_pos_encoding": True} if model_type in ("vit", "ijepa") else {}))
        outputs = encoder(images)
    assert encoder.levels[0].grid == (12, 12)
    assert outputs[0].shape[1] == prefix + 144
    torch.testing.assert_close(outputs[0], wanted.last_hidden_state, rtol=1e-5, atol=1e-5)


def test_hf__blocks_after_the_last_tap_are_not_computed(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")
    encoder = load_encoder(f"hf:{tmp_path}?taps=1,3")
    ran: list[int] = []
    for number, block in enumerate(encoder.model.encoder.layer, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    encoder(torch.randn(1, 3, 32, 32))
    assert ran == [1, 2, 3]


def test_hf__a_classifier_and_16_bit_weights_load_as_the_float32_encoder(tmp_path: Path) -> None:
    saved = save_model(tmp_path, "vit", model_class="ViTForImageClassification", num_labels=7)
    tensors = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(f"hf:{tmp_path}")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    weight = saved.vit.layernorm.weight.half().float()
    torch.testing.assert_close(encoder.model.layernorm.weight, weight, rtol=0, atol=0)
    assert load_encoder(f"hf:{tmp_path}").weights_hash() == encoder.weights_hash()  # no head with random weights


def test_hf__loading_is_quiet_and_leaves_transformers_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path, "vit", model_class="ViTForImageClassification")
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_encoder(f"hf:{tmp_path}")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_hf__identity_sees_configuration_that_no_weight_shows(tmp_path: Path) -> None:
    save_model(tmp_path / "a", "vit")
    save_model(tmp_path / "b", "vit", num_attention_heads=3)
    first, second = load_encoder(f"hf:{tmp_path / 'a'}"), load_encoder(f"hf:{tmp_path / 'b'}")
    assert first.weights_hash() == second.weights_hash()
    assert first.identity() != second.identity()
    kept = json.loads(json.dumps(first.identity()))["settings"]["architecture"]
    assert kept["model_type"] == "vit"
    assert "transformers_version" not in kept  # the same model saved by a newer version is the same encoder


HALF, DEFAULT = (0.5, 0.5, 0.5), Transform(32, 37, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ({}, Transform(32, 32, "bicubic", DEFAULT.mean, DEFAULT.std)),
        (  # google/vit-base-patch16-224
            {"do_resize": True, "size": 224, "resample": 2, "image_mean": HALF, "image_std": HALF},
            Transform(224, 224, "bilinear", HALF, HALF),
        ),
        (  # facebook/dinov2-base
            {
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "size": {"shortest_edge": 256},
                "resample": 3,
                "image_mean": IMAGENET[0],
                "image_std": IMAGENET[1],
                "rescale_factor": 0.00392156862745098,
            },
            Transform(224, 256, "bicubic", *IMAGENET),
        ),
        (
            {"size": {"height": 48, "width": 48}, "do_normalize": False, "do_center_crop": None, "crop_size": None},
            Transform(48, 48, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ),
    ],
)
def test_preprocessor__becomes_our_transform(tmp_path: Path, settings: dict, transform: Transform) -> None:
    assert read_transform(tmp_path, default=DEFAULT) == DEFAULT
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_transform(tmp_path, default=DEFAULT) == transform


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds list"),
        ('{"resample": 1}', "resample 1 is not offered"),
        ('{"size": {"height": 32, "width": 64}}', "expected one number of pixels"),
        ('{"size": "big"}', "expected one number of pixels"),
        ('{"do_rescale": false}', "does not scale pixels"),
        ('{"image_mean": [0.5]}', r"image_mean is \[0.5\]; expected three numbers"),
    ],
)
def test_preprocessor__what_cannot_be_followed_is_an_error(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=part):
        read_transform(tmp_path, default=DEFAULT)


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "pickled":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif how in ("missing", "unexpected", "reshaped"):
        tensors = load_file(weights)
        name = next(key for key in tensors if key.endswith("layernorm.weight"))
        changed = {"reshaped": {name: torch.zeros(5)}, "unexpected": {"extra.weight": torch.zeros(2)}, "missing": {}}[
            how
        ]
        kept = {key: tensor for key, tensor in tensors.items() if how != "missing" or key != name}
        save_file({**kept, **changed}, weights, metadata={"format": "pt"})
    elif how == "no config":
        config.unlink()
    else:
        settings = json.loads(config.read_text())
        settings.update({"unknown type": {"model_type": "dinov22"}, "no type": {"model_type": None}}[how])
        config.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("how", "error", "part"),
    [
        ("truncated", CheckpointError, "does not hold a whole Dinov2Model"),
        ("pickled", CheckpointError, r"pickled weights are not read\); it holds config.json, pytorch_model.bin"),
        ("missing", CheckpointError, "1 missing: layernorm.weight"),
        ("unexpected", CheckpointError, "1 unexpected: extra.weight"),
        ("reshaped", CheckpointError, "does not hold a whole Dinov2Model"),
        ("no config", CheckpointError, "config.json cannot be read"),
        ("unknown type", UnknownNameError, "did you mean 'dinov2'"),
        ("no type", CheckpointError, "has no model_type"),
    ],
)
def test_hf__a_damaged_folder_says_what_is_wrong(tmp_path: Path, how: str, error: type, part: str) -> None:
    save_model(tmp_path, "dinov2")
    damage(tmp_path, how)
    with pytest.raises(error, match=part) as caught:
        load_encoder(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("hf:", "expected a name after the colon: hf:NAME"),
        ("hf:./absent", "hf:./absent: no such folder"),
        ("hf:facebook/absent-model", "fetch it with --download, or name a folder"),
        ("hf:not a name", "no such model in this machine's Hugging Face cache"),
        ("hf:x?level=2", "did you mean 'levels'"),
    ],
)
def test_hf__mistakes_get_one_clear_line(spec: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(HjepaError) as caught:
        load_encoder(spec)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hf__a_model_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit, repository = "0" * 40, tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    with pytest.raises(EncoderError, match="fetch it with --download"):
        load_encoder("hf:someone/tiny")  # a reference, but no file yet
    save_model(repository / "snapshots" / commit, "ijepa")
    for download in (False, True):
        assert load_encoder("hf:someone/tiny", download=download).levels[0].prefix == 0


def test_hf__without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, "vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r"pip install 'hjepa\[hf\]'"):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ("/etc/passwd", "names '/etc/passwd'; only safetensors"),
        ("pytorch_model.bin", "names 'pytorch_model.bin'"),
        ("../model.safetensors", "names '../model.safetensors'"),
        ("gone.safetensors", "lacks gone.safetensors"),
        (7, "names '7'"),
    ],
)
def test_hf__an_index_that_points_elsewhere_is_never_followed(tmp_path: Path, named: object, part: str) -> None:
    save_model(tmp_path, "vit")
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.cls_token": named}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as error:
        load_encoder(f"hf:{tmp_path}")
    assert part in str(error.value)
    (tmp_path / "model.safetensors.index.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="no index of weight files"):
        load_encoder(f"hf:{tmp_path}")

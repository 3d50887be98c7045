"""Weights of foreign checkpoints: which are taken is said, two names of one tensor are refused, order is checked."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.networks.naming import by_order, fit_prefix
from hjepa_eval.encoders.weights import Weights, read_weights
from hjepa_eval.errors import CheckpointError, EncoderError, UnknownNameError


def weights(seed: int, **settings: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model("test_vit", **settings).state_dict()


@pytest.mark.parametrize(("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_read_weights__ema_goes_before_raw_as_timm_has_it_and_is_said(tmp_path: Path, raw: str, averaged: str) -> None:
    file = tmp_path / "ema.pth"
    torch.save({raw: weights(1, num_classes=10), averaged: weights(2, num_classes=10), "epoch": 1}, file)
    theirs = timm.models.load_state_dict(str(file))
    encoder = load_encoder(f"timm:test_vit?checkpoint={file}")
    state = encoder.model.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in state)
    assert f"weights of the checkpoint's {averaged}, not {raw}, which ?section= takes" in encoder.notes
    assert "not used: head.weight, head.bias" in encoder.notes
    chosen = load_encoder(f"timm:test_vit?checkpoint={file}?section={raw}").model.state_dict()
    assert all(torch.equal(chosen[name], value) for name, value in weights(1, num_classes=10).items() if name in chosen)


def test_read_weights__two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1), "module.x": torch.ones(1)}, tmp_path / "both.pth")
    with pytest.raises(CheckpointError, match=r"holds x and module\.x, two names of one tensor"):
        read_weights(tmp_path / "both.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_read_weights__wrappers_are_removed_in_either_order(tmp_path: Path, prefix: str) -> None:
    torch.save({"model": {f"{prefix}a.b": torch.ones(2)}}, tmp_path / "wrapped.pth")
    assert list(read_weights(tmp_path / "wrapped.pth").tensors) == ["a.b"]


def test_read_weights__unknown_sections_are_listed(tmp_path: Path) -> None:
    torch.save({"net": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"its sections net do; name one with \?section=net"):
        read_weights(tmp_path / "net.pth")
    assert list(read_weights(tmp_path / "net.pth", section="net").tensors) == ["a"]


def test_read_weights__namespace_is_refused_with_the_line_that_saves_it_again(tmp_path: Path) -> None:
    file = tmp_path / "training.pth"
    torch.save({"model": weights(0), "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(CheckpointError, match=r"it would run argparse\.Namespace") as caught:
        load_encoder(f"timm:test_vit?checkpoint={file}")
    message = str(caught.value)
    line = message.partition("save its tensors alone with: ")[2]
    assert "\n" not in message
    subprocess.run(line.replace("python", sys.executable, 1), shell=True, check=True, timeout=300)
    saved = read_weights(tmp_path / "training.tensors.pth").tensors
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights(0).items())


def test_fit_prefix__takes_the_prefix_under_which_most_names_fit() -> None:
    one = torch.zeros(1)
    tensors = {"model.encoder.a": one, "model.encoder.b": one, "model.head.a": one, "a": one}
    chosen = fit_prefix(Weights(tensors), ["a", "b"])
    assert list(chosen.tensors) == ["a", "b"]
    assert chosen.notes == ("names without their model.encoder.; not used: model.head.a, a",)
    kept = {"encoder.a": one, "encoder.b": one}
    assert fit_prefix(Weights(kept), ["encoder.a", "encoder.b"]).tensors == kept


def test_names_by_order__same_shapes_and_kinds_fill_the_network_and_it_is_said(tmp_path: Path) -> None:
    renamed = {
        f"layer{place}.{name.rpartition('.')[2]}": value for place, (name, value) in enumerate(weights(3).items())
    }
    torch.save(renamed, tmp_path / "renamed.pth")
    spec = f"timm:test_vit?checkpoint={tmp_path / 'renamed.pth'}"
    with pytest.raises(CheckpointError, match="does not fit the encoder"):
        load_encoder(spec)
    encoder = load_encoder(f"{spec}?names=order")
    assert all(torch.equal(tensor, weights(3)[name]) for name, tensor in encoder.model.state_dict().items())
    assert "names matched by order and shape alone, from layer0.cls_token = cls_token" in encoder.notes[0]
    with pytest.raises(UnknownNameError, match=r"way of \?names="):
        load_encoder(f"{spec}?names=ordre")


def test_names_by_order__another_order_shape_or_count_is_refused() -> None:
    ours = {"a.weight": torch.zeros(3), "a.bias": torch.zeros(3), "b.weight": torch.zeros(3, 2)}
    theirs = {"x.weight": torch.zeros(3), "x.bias": torch.zeros(3), "y.weight": torch.zeros(3, 2)}
    assert list(by_order(Weights(theirs), ours, source="f").tensors) == list(ours)
    swapped = {name: theirs[name] for name in ("x.bias", "x.weight", "y.weight")}
    with pytest.raises(CheckpointError, match=r"tensor 0 of f is x.bias \[3\].*a.weight \[3\]; the order is another"):
        by_order(Weights(swapped), ours, source="f")
    with pytest.raises(CheckpointError, match=r"tensor 2 of f is y.weight \[4\]"):
        by_order(Weights({**theirs, "y.weight": torch.zeros(4)}), ours, source="f")
    with pytest.raises(CheckpointError, match="holds 2 tensors and the encoder 3"):
        by_order(Weights({name: theirs[name] for name in ("x.weight", "x.bias")}), ours, source="f")
    more = {f"z{place}.weight": torch.zeros(1) for place in range(3)}
    with pytest.raises(CheckpointError, match="holds 6 tensors and the encoder 3"):
        by_order(Weights({**theirs, **more}), ours, source="f")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("eva02_tiny_patch14_224", id="eva02"),
        pytest.param("vitamin_small_224", id="vitamin"),
        pytest.param("vit_base_patch16_rpn_224", id="rpn"),
    ],
)
def test_final_norm__behind_the_pooling_is_applied_and_its_weights_count(name: str) -> None:
    encoder = load_encoder(f"random:{name}?levels=1")
    images = torch.randn(1, 3, encoder.transform.size, encoder.transform.size)
    with torch.no_grad():
        before = encoder(images)[0]
        model = encoder.model
        tokens = model.forward_features(images)
        torch.testing.assert_close(before, model.fc_norm(tokens), rtol=1e-4, atol=1e-4)
        model.fc_norm.weight.mul_(torch.linspace(0.1, 3, model.fc_norm.weight.numel()))
        assert (encoder(images)[0] - before).abs().max() > 0.1
    assert encoder.settings["norm"] == "fc_norm of each token at every tap"
    assert encoder.notes == ()


def test_unused_parameters__are_named_for_stages_and_pooling_heads() -> None:
    swin = load_encoder("random:swin_tiny_patch4_window7_224")
    assert swin.notes == ("2 parameters (1,536 numbers) take no part in any level: norm.weight, norm.bias",)
    first = load_encoder("random:test_vit?levels=1?taps=1")
    assert "take no part in any level: blocks.1." in first.notes[0]
    assert load_encoder("random:test_vit").notes == ()


@pytest.mark.parametrize(
    "name", ["cait_xxs24_224", "vit_relpos_small_patch16_224", "convit_tiny", "samvit_base_patch16"]
)
def test_trial__interface_of_another_kind_is_one_line(name: str) -> None:
    with pytest.raises(EncoderError, match=r"does not run on an image .*so choose another") as caught:
        load_encoder(f"random:{name}")
    assert "\n" not in str(caught.value)

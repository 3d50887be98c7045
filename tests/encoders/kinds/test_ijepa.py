"""Checkpoints exactly as facebookresearch/ijepa writes them, and its forward, written again from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds.ijepa import HEADS, _geometry
from hjepa_eval.encoders.protocol import check_outputs
from hjepa_eval.encoders.vit import pool_cells
from hjepa_eval.errors import CheckpointError, EncoderError, HjepaError

DEPTH, PATCH, SIZE = 4, 4, 32


def encoder_state(dim: int, *, hidden: int, seed: int) -> dict[str, Tensor]:
    """The names and shapes of I-JEPA's VisionTransformer with DDP's prefix."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, mean: float = 0.0) -> Tensor:
        return mean + torch.randn(shape, generator=generator) * 0.1

    state = {
        "pos_embed": random(1, (SIZE // PATCH) ** 2, dim),
        "patch_embed.proj.weight": random(dim, 3, PATCH, PATCH),
        "patch_embed.proj.bias": random(dim),
        "norm.weight": random(dim, mean=1.0),
        "norm.bias": random(dim),
    }
    linears = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    for block in range(DEPTH):
        for norm in ("norm1", "norm2"):
            state[f"blocks.{block}.{norm}.weight"] = random(dim, mean=1.0)
            state[f"blocks.{block}.{norm}.bias"] = random(dim)
        for linear, shape in linears.items():
            state[f"blocks.{block}.{linear}.weight"] = random(*shape)
            state[f"blocks.{block}.{linear}.bias"] = random(shape[0])
    return {f"module.{name}": tensor for name, tensor in state.items()}


def checkpoint(dim: int = 192, hidden: int = 768) -> dict:
    context = encoder_state(dim, hidden=hidden, seed=1)
    moments = {index: {"step": torch.tensor(9.0), "exp_avg": torch.zeros(3, 4)} for index in range(3)}
    groups = [{"lr": 1e-3, "weight_decay": 0.04, "params": [0, 1]}, {"lr": 1e-3, "WD_exclude": True, "params": [2]}]
    return {
        "encoder": context,
        "predictor": {"module.mask_token": torch.zeros(1, 1, 8)},
        "target_encoder": encoder_state(dim, hidden=hidden, seed=2),
        "opt": {"state": moments, "param_groups": groups},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "epoch": 300,
        "loss": 0.1,
        "batch_size": 128,
        "world_size": 16,
        "lr": 1e-3,
    }


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def reference_blocks(state: dict[str, Tensor], images: Tensor, *, heads: int) -> list[Tensor]:
    """Final norm of the tokens after every block: pre-norm attention and MLP, no class token, exact GELU."""
    w = {name.removeprefix("module."): tensor for name, tensor in state.items()}

    def norm(tokens: Tensor, name: str) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(tokens: Tensor, name: str) -> Tensor:
        return tokens @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    kernel = w["patch_embed.proj.weight"]
    patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)  # [B, N, 3 * P * P], row by row
    tokens = patches @ kernel.flatten(1).T + w["patch_embed.proj.bias"] + w["pos_embed"]
    batch, count, dim = tokens.shape
    outputs = []
    for block in range(DEPTH):
        qkv = linear(norm(tokens, f"blocks.{block}.norm1"), f"blocks.{block}.attn.qkv")
        query, key, value = (part.reshape(batch, count, heads, -1).transpose(1, 2) for part in qkv.split(dim, -1))
        weights = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(dim // heads), -1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, count, dim)
        tokens = tokens + linear(mixed, f"blocks.{block}.attn.proj")
        hidden = linear(norm(tokens, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(hidden, f"blocks.{block}.mlp.fc2")
        outputs.append(norm(tokens, "norm"))
    return outputs


def real_images(encoder_transform: Transform, count: int = 3) -> Tensor:
    digits = load_dataset("digits", "test")
    images = torch.stack([digits.image(index) for index in range(count)])
    images = F.interpolate(images.float(), (encoder_transform.size,) * 2, mode="nearest").to(torch.uint8)
    return encoder_transform.normalise(images.expand(count, 3, -1, -1))


@pytest.mark.rows("E1")
@pytest.mark.parametrize(("branch", "section"), [("", "target_encoder"), ("?encoder=context", "encoder")])
def test_ijepa__levels_equal_the_published_forward(tmp_path: Path, branch: str, section: str) -> None:
    content = checkpoint()
    file = save(tmp_path / "tiny.pth.tar", content)
    encoder = load_encoder(f"ijepa:{file}{branch}")
    images = real_images(encoder.transform)
    with torch.inference_mode():
        outputs = encoder(images)
        reference = reference_blocks(content[section], images, heads=3)
    check_outputs(encoder, outputs, len(images))
    assert encoder.taps == (1, 3, 4)
    for level, output in enumerate(outputs):
        wanted = pool_cells(reference[encoder.taps[level] - 1], (8, 8), level)
        torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-5)


def test_ijepa__branches_levels_and_geometry(tmp_path: Path) -> None:
    file = save(tmp_path / "giant.pth.tar", checkpoint(dim=44, hidden=192))  # the ratio 48/11 of ViT-g
    encoder = load_encoder(f"ijepa:{file}?heads=4?taps=2,4")
    assert [(level.grid, level.dim, level.prefix) for level in encoder.levels] == [((8, 8), 44, 0), ((4, 4), 44, 0)]
    assert encoder.model.blocks[0].mlp.fc1.out_features == 192
    assert encoder.transform == Transform(32, 37, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    context = load_encoder(f"ijepa:{file}?heads=4?encoder=context")
    assert context.weights_hash() != encoder.weights_hash()
    assert load_encoder(f"ijepa:{file}?heads=11?taps=2,4").identity() != encoder.identity()


@pytest.mark.parametrize(
    ("dim", "hidden", "depth", "patch", "size"),
    [(1280, 5120, 32, 14, 224), (1280, 5120, 32, 16, 448), (1408, 6144, 40, 16, 224)],
    ids=["ViT-H/14", "ViT-H/16-448", "ViT-g/16"],
)
def test_ijepa__published_models_are_known_by_their_shapes(
    dim: int, hidden: int, depth: int, patch: int, size: int
) -> None:
    shapes = {
        "pos_embed": (1, (size // patch) ** 2, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        **{f"blocks.{block}.mlp.fc1.weight": (hidden, dim) for block in range(depth)},
    }
    geometry = _geometry({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, source="x")
    ratio = geometry.pop("mlp_ratio")
    assert geometry == {"img_size": size, "patch_size": patch, "embed_dim": dim, "depth": depth}
    assert int(dim * ratio) == hidden
    assert HEADS[dim] == 16


def test_ijepa__global_generator_is_untouched(tmp_path: Path) -> None:
    file = save(tmp_path / "tiny.pth.tar", checkpoint())
    before = torch.get_rng_state()
    load_encoder(f"ijepa:{file}")
    assert torch.equal(torch.get_rng_state(), before)


def test_ijepa__checkpoint_of_one_process_has_no_ddp_prefix(tmp_path: Path) -> None:
    content = checkpoint()
    plain = {name.removeprefix("module."): tensor for name, tensor in content["target_encoder"].items()}
    one, many = (
        save(tmp_path / "one.pth.tar", {**content, "target_encoder": plain}),
        save(tmp_path / "m.pth.tar", content),
    )
    assert load_encoder(f"ijepa:{one}").weights_hash() == load_encoder(f"ijepa:{many}").weights_hash()


class Malicious:
    def __reduce__(self) -> tuple:
        return print, ("code from a checkpoint ran",)


def without(content: dict, *names: str) -> dict:
    return {name: value for name, value in content.items() if name not in names}


def changed(content: dict, **tensors: Tensor | None) -> dict:
    """The checkpoint with tensors of its target encoder replaced, or removed where None."""
    state = {name: t for name, t in content["target_encoder"].items() if tensors.get(name, t) is not None}
    state |= {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return {**content, "target_encoder": state}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda c: without(c, "target_encoder"),
            r"no section 'target_encoder' with tensors; it holds encoder, predictor",
        ),
        (lambda c: {**c, "target_encoder": {}}, "holds no named tensors, in its section 'target_encoder'"),
        (lambda c: {**c, "opt": Malicious()}, "it would run print"),
        (lambda c: [1, 2], "it holds list"),
        (lambda c: changed(c, **{"module.pos_embed": None}), "lacks pos_embed"),
        (lambda c: changed(c, **{"module.pos_embed": torch.zeros(1, 65, 192)}), "65 positions, no square grid"),
        (lambda c: changed(c, **{"module.pos_embed": torch.zeros(64, 192)}), r"pos_embed is \[64, 192\]"),
        (lambda c: changed(c, **{"module.norm.weight": torch.zeros(5)}), r"norm.weight \[5\] instead of \[192\]"),
        (lambda c: changed(c, **{"module.blocks.2.attn.qkv.bias": None}), r"1 missing: blocks.2.attn.qkv.bias"),
        (lambda c: changed(c, **{"module.cls_token": torch.zeros(1, 1, 192)}), "1 unexpected: cls_token"),
        (lambda c: changed(c, **{"module.patch_embed.proj.weight": torch.zeros(192, 1, 4, 4)}), "1 channels"),
    ],
)
def test_ijepa__a_wrong_checkpoint_says_what_is_wrong(
    tmp_path: Path, change: Callable, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "wrong.pth.tar", change(checkpoint()))
    with pytest.raises(CheckpointError, match=part) as caught:
        load_encoder(f"ijepa:{file}")
    assert "wrong.pth.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code from a checkpoint ran" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", [700, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_ijepa__truncated_file_is_named(tmp_path: Path, kept: float, zipped: bool) -> None:
    file = tmp_path / "cut.pth.tar"
    torch.save(checkpoint(), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(CheckpointError, match="cut short" if zipped else "not a checkpoint of plain tensors") as caught:
        load_encoder(f"ijepa:{file}")
    assert "weights_only" not in str(caught.value)  # no advice to open the door


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\x00" * 64])
def test_ijepa__what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.pth.tar").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.pth\.tar is not a checkpoint of plain tensors"):
        load_encoder("ijepa:page.pth.tar")


def test_ijepa__files_older_than_the_zip_format_are_read(tmp_path: Path) -> None:
    old, new = tmp_path / "old.pth.tar", tmp_path / "new.pth.tar"
    torch.save(checkpoint(), old, _use_new_zipfile_serialization=False)
    torch.save(checkpoint(), new)
    assert load_encoder(f"ijepa:{old}").weights_hash() == load_encoder(f"ijepa:{new}").weights_hash()


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("ijepa:absent.pth.tar", "no checkpoint file absent.pth.tar"),
        ("ijepa:", "expected a name after the colon: ijepa:FILE.pth.tar"),
        ("absent.pth.tar", "did you mean 'ijepa:absent.pth.tar'"),
        ("ijepa:odd.pth.tar", "has width 40, which is none of I-JEPA's; say how many heads with ?heads=N"),
        ("ijepa:odd.pth.tar?heads=7", "divides the width 40"),
        ("ijepa:odd.pth.tar?heads=0", "divides the width 40"),
        ("ijepa:odd.pth.tar?heads=4?taps=9", "between 1 and the encoder's 4 blocks"),
        ("ijepa:odd.pth.tar?encoder=targte", "did you mean 'target'"),
        ("ijepa:odd.pth.tar?head=4", "did you mean 'heads'"),
    ],
)
def test_ijepa__mistakes_get_one_clear_line(tmp_path: Path, spec: str, part: str) -> None:
    save(tmp_path / "odd.pth.tar", checkpoint(dim=40, hidden=160))
    with pytest.raises(HjepaError) as caught:
        load_encoder(spec)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    if "divides" in part or "width" in part:
        assert isinstance(caught.value, EncoderError)

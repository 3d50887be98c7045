"""Official I-JEPA checkpoints: the ViT's geometry is read off the tensors, levels are depth taps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder, choose_taps, parse_level_options
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.weights import load_strict, read_tensors
from hjepa_eval.errors import CheckpointError, EncoderError, unknown

SECTIONS = {"target": "target_encoder", "context": "encoder"}
# The one thing that no tensor's shape shows. Source: facebookresearch/ijepa, src/models/vision_transformer.py.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ijepa_transform(size: int) -> Transform:
    """Return I-JEPA's preparation of images: short side 256 for a crop of 224 and so on in proportion, bilinear.

    Source: ImageNet's usual evaluation crop, with the interpolation and normalisation of facebookresearch/ijepa,
    src/transforms.py.
    Deviation: that repository prepares images for pretraining only; it has no evaluation transform.
    """
    return Transform(size, round(size * 256 / 224), "bilinear", IMAGENET_MEAN, IMAGENET_STD)


def load_ijepa(file: Path, options: Mapping[str, str]) -> Encoder:
    """Return the encoder in an official I-JEPA checkpoint, `ijepa:FILE.pth.tar`.

    Its position embedding is copied from the file: I-JEPA's axes are in another order than timm's.

    Args:
        file: as `facebookresearch/ijepa` writes it, with the sections `encoder` and `target_encoder`.
        options: `encoder` (`target`, the EMA, or `context`), `heads`, `levels` and `taps`.

    Raises:
        CheckpointError: the file is absent, damaged, would run code, or is no I-JEPA checkpoint.
        EncoderError: the number of heads is unknown, or an option does not fit.
        UnknownNameError: `?encoder=` is neither `target` nor `context`.

    Source: Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture";
    evaluated with the target encoder (section 4).
    """
    branch = options.get("encoder", "target")
    if branch not in SECTIONS:
        raise unknown("encoder branch", branch, SECTIONS)
    source = f"{file} ({SECTIONS[branch]})"
    tensors = read_tensors(file, section=SECTIONS[branch])
    geometry = _geometry(tensors, source=source)
    geometry["num_heads"] = _heads(options.get("heads"), geometry["embed_dim"], source=source)
    taps = choose_taps(geometry["depth"], **parse_level_options(options))
    model = _build(geometry)
    load_strict(model, tensors, source=source)
    encoder = ViTEncoder(
        model,
        f"ijepa:{file}",
        taps=taps,
        transform=ijepa_transform(geometry["img_size"]),
        architecture={"family": "ijepa", **geometry},
    )
    encoder.files = (file,)
    return encoder


def _geometry(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Any]:
    """Return timm's arguments that the tensors' shapes show."""
    dimensions = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2}
    for name, expected in dimensions.items():
        if name not in tensors:
            raise CheckpointError(f"{source} lacks {name}, so it is no encoder of facebookresearch/ijepa")
        if tensors[name].ndim != expected:
            raise CheckpointError(f"{source}: {name} is {list(tensors[name].shape)}; expected {expected} dimensions")
    dim, channels, rows, columns = tensors["patch_embed.proj.weight"].shape
    if channels != 3 or rows != columns:
        raise CheckpointError(f"{source} embeds patches of {rows}x{columns} with {channels} channels, not square RGB")
    positions = tensors["pos_embed"].shape[1]
    side = isqrt(positions)
    if side**2 != positions:
        raise CheckpointError(f"{source} has {positions} positions, no square grid; an I-JEPA ViT has no class token")
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "img_size": side * rows,
        "patch_size": rows,
        "embed_dim": dim,
        "depth": max(blocks) + 1,
        # timm rounds dim * ratio down; the half keeps ViT-g's 6144 = 1408 * 48 / 11 from becoming 6143.
        "mlp_ratio": (hidden + 0.5) / dim,
    }


def _heads(option: str | None, dim: int, *, source: str) -> int:
    if option is None and dim not in HEADS:
        raise EncoderError(f"{source} has width {dim}, which is none of I-JEPA's; say how many heads with ?heads=N")
    if option is not None and not (option.isdigit() and int(option) > 0 and dim % int(option) == 0):
        raise EncoderError(f"?heads={option}: expected a number of attention heads that divides the width {dim}")
    return int(option) if option is not None else HEADS[dim]


class _WithoutInitialValues(TorchFunctionMode):
    """Leave new weights as the memory is: a checkpoint overwrites all, and ViT-g's random numbers take 20 seconds."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return next(value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


def _build(geometry: dict[str, Any]) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]), _WithoutInitialValues():
        model = VisionTransformer(
            **geometry,
            class_token=False,
            global_pool="avg",
            fc_norm=False,  # the last norm stays before the pooling, where I-JEPA has it
            num_classes=0,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            weight_init="skip",
        )
    model.pos_embed.requires_grad_(False)
    return model

"""A ViT as a folder that timm opens by itself, and such a folder as an encoder: `timm:local-dir:FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import VisionTransformer

from hjepa_eval.encoders.kinds.folder_files import read_json
from hjepa_eval.encoders.kinds.run import check_sums
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder, parse_level_options, wrap_timm
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.vit import vit_arguments
from hjepa_eval.encoders.weights import check_sizes, checked_bytes, load_strict, read_tensors
from hjepa_eval.errors import CheckpointError, EncoderError
from hjepa_eval.features.fingerprint import write_atomically

PREFIX = "local-dir:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# How a run draws its first weights, which is no part of the architecture.
_INITIALISATION = ("seed", "positions")


def timm_config(encoder: ViTEncoder) -> dict[str, Any]:
    """Return the `config.json` of a folder for timm.

    `model(images)` of the model that timm builds from it gives the mean `[B, D]` of the last block's cells, each
    through the final norm: the readout `mean` of a level that reads that block.

    Args:
        encoder: of a run; its `settings["architecture"]` says how timm builds it.

    Source: timm 1.0.31, `models/_hub.py`. The key `hjepa` is ours; timm passes over it.
    """
    asked = {name: value for name, value in encoder.settings["architecture"].items() if name not in _INITIALISATION}
    architecture, sizes = vit_arguments(asked.pop("timm"))
    transform, model = encoder.transform, encoder.model
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        # Pooling without a norm of its own: the norm of the run's ViT comes before it.
        "model_args": {**sizes, **asked, "global_pool": "avg", "fc_norm": False},
        "pretrained_cfg": {
            "architecture": architecture,
            "input_size": [3, transform.size, transform.size],
            "fixed_input_size": True,
            "interpolation": transform.interpolation,
            "crop_pct": transform.size / transform.resize,
            "crop_mode": "center",
            "mean": list(transform.mean),
            "std": list(transform.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": model.pretrained_cfg["first_conv"],
            "classifier": model.pretrained_cfg["classifier"],
        },
        "hjepa": {"taps": list(encoder.taps)},
    }


def write_timm(encoder: ViTEncoder, folder: Path) -> None:
    """Write an encoder's weights under timm's names, and the configuration with which timm builds it.

    Raises:
        EncoderError: timm, without hjepa, would build another encoder from it.
        OSError: the folder cannot be written.
    """
    # safetensors' own writer leaves a file that only its owner can read.
    write_atomically(folder / WEIGHTS, checked_bytes(encoder.model.state_dict()))
    (folder / CONFIG).write_text(json.dumps(timm_config(encoder), indent=2) + "\n", encoding="utf-8")
    if not _timm_gives_the_same(encoder, folder):
        raise EncoderError(
            f"timm alone cannot build {encoder.name} again: it has something of hjepa's own, such as positions; "
            "take --format torch or onnx"
        )


@torch.no_grad()
def _timm_gives_the_same(encoder: ViTEncoder, folder: Path) -> bool:
    """Build the model as a user of timm will, and compare the last block's tokens on one image of noise."""
    weights = next(encoder.parameters())
    model = timm.create_model(f"{PREFIX}{folder}", pretrained=False).eval()
    state = encoder.model.state_dict()
    if {name: tensor.shape for name, tensor in model.state_dict().items()} != {n: t.shape for n, t in state.items()}:
        return False
    model.load_state_dict(state)
    size = encoder.transform.size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(weights.dtype)
    ours = encoder.model.forward_features(image).float()
    theirs = model.to(weights.dtype).forward_features(image).float()
    # Measured differences are 0; a lost rotation or factor changes the first digit.
    return bool((ours - theirs).abs().max() <= 1e-3 * ours.abs().max())


def load_timm_folder(folder: Path, options: Mapping[str, str]) -> Encoder:
    """Return the encoder in a folder that timm or `hjepa export` wrote; its levels are those of the run.

    Args:
        folder: with `config.json` and `model.safetensors`.
        options: `levels` and `taps`, which replace those of the run.

    Raises:
        CheckpointError: the folder lacks a file, its files do not fit each other, or are not what `hjepa export` wrote.
        EncoderError: the levels do not fit the model.
    """
    check_sums(folder)
    config = read_json(folder / CONFIG)
    own = config.get("hjepa")
    taps = own.get("taps") if isinstance(own, dict) else None
    asked = config.get("model_args")
    check_sizes(asked if isinstance(asked, dict) else {}, source=str(folder / CONFIG))
    try:
        model = timm.create_model(f"{PREFIX}{folder}", pretrained=False, num_classes=0)
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{folder / CONFIG} does not describe a timm model: {error}") from None
    classifier = model.pretrained_cfg.get("classifier") or ()
    ignore = [classifier] if isinstance(classifier, str) else list(classifier)
    load_strict(model, read_tensors(folder / WEIGHTS), source=str(folder / WEIGHTS), ignore=ignore)
    levels = parse_level_options(options)
    if not options and taps and isinstance(model, VisionTransformer):
        levels = {"taps": tuple(taps), "levels": len(taps)}
    encoder = wrap_timm(model, f"timm:{PREFIX}{folder}", **levels)
    # Not the folder's name: a copy of the folder is the same encoder.
    arguments = {key: value for key, value in config.get("model_args", {}).items() if value is not None}
    encoder.settings["architecture"] = {"timm": config["architecture"], **arguments}
    encoder.files = (folder / WEIGHTS, folder / CONFIG)
    return encoder

"""`hjepa models --pretrain CONFIG`: parameters of each part of a pretraining, and what memory a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

CONVENTION = (
    "weights, gradients and moments are fp32; activations are what autograd keeps between forward and backward "
    "pass (in bf16 also cast weights), each storage once, found without allocating it; work space, images and the "
    "allocator's waste come on top"
)
RECOMPUTED = "train.checkpoint_activations keeps less than these activations; how much less is not counted"
_KINDS = {
    "weights": "weights",
    "target_weights": "target encoder's copy",
    "gradients": "gradients",
    "optimizer": "the optimizer's moments",
    "activations": "activations",
}


def describe(config: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Return what a pretraining configuration takes, as JSON values.

    Raises:
        ConfigError: the configuration does not fit together, or there is none of that name.
    """
    from hjepa_pretrain.checks import load_settings
    from hjepa_pretrain.training.memory import describe_memory

    settings = load_settings(config, assignments)
    parts, memory = describe_memory(settings)
    step = asdict(memory)
    return {
        "config": config,
        "encoder": settings.model.encoder_type,
        "parts": [asdict(part) for part in parts],
        "parameters": sum(part.parameters for part in parts),
        "trainable": sum(part.trainable for part in parts),
        "bytes": {kind: step[kind] for kind in (*_KINDS, "activations_per_image")} | {"total": memory.total},
        **{key: step[key] for key in ("images", "precision", "device", "recomputed")},
    }


def lines(description: dict[str, Any]) -> list[str]:
    """Return a description as text: the table of parts, then of the memory."""
    parts = [(part["name"].replace("_", " "), part["parameters"], part["trainable"]) for part in description["parts"]]
    parts.append(("together", description["parameters"], description["trainable"]))
    sizes = description["bytes"]
    kinds = [(name, sizes[kind]) for kind, name in _KINDS.items()] + [("together", sizes["total"])]
    width = max(len(name) for name, *_ in (*parts, *kinds)) + 2
    precision, device, images = (description[key] for key in ("precision", "device", "images"))
    return [
        f"{description['encoder']}, as {description['config']} has it",
        f"{'part':<{width}}{'parameters (M)':>14}  {'trainable (M)':>13}",
        *(f"{name:<{width}}{numbers / 1e6:>14.2f}  {trained / 1e6:>13.2f}" for name, numbers, trained in parts),
        "",
        f"a step on {images:,} images, {precision} on {device}",
        f"{'memory':<{width}}{'GB':>14}",
        *(f"{name:<{width}}{size / 1e9:>14.3f}" for name, size in kinds),
        f"each image has {sizes['activations_per_image'] / 1e6:.2f} MB of the activations",
        CONVENTION,
        *([RECOMPUTED] if description["recomputed"] else []),
    ]

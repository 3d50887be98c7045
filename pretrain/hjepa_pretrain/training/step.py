"""What a step minimises, as a function of networks and inputs, and whether torch.compile is worth its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hjepa_eval.errors import ConfigError
from hjepa_eval.extraction.inference import can_compile
from hjepa_pretrain.config.settings import TrainSettings
from hjepa_pretrain.data.step_inputs import CropInputs, StepInputs
from hjepa_pretrain.models import HJEPA
from hjepa_pretrain.objectives.objective import crops_loss, training_loss

# Compilation of forward and backward pass takes one to two minutes on two cores.
_MINUTES = 10.0
_STEPS = 5000


def resolve_compile(
    settings: TrainSettings, device: torch.device, *, total_steps: int | None, say: Callable[[str], None]
) -> bool:
    """Tell whether the step of a run is compiled.

    Raises:
        ConfigError: `train.compile` is on and there is no compiler for the device.
    """
    if settings.compile == "off":
        return False
    if not can_compile(device):
        if settings.compile == "on":
            needed = "a C++ compiler" if device.type == "cpu" else "triton"
            raise ConfigError(
                f"train.compile is on, but torch.compile needs {needed} on {device}; install it, or set off"
            )
        say(f"no compiler for {device}: steps run eagerly, which is slower")
        return False
    if settings.compile == "on":
        return True
    return total_steps >= _STEPS if total_steps is not None else (settings.minutes or 0.0) >= _MINUTES


def step_loss(
    model: HJEPA, inputs: StepInputs | CropInputs, train: TrainSettings, *, precision: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its terms, scalars: no branch looks at a value, so that it compiles to one graph.

    Args:
        model: in training mode.
        inputs: of a part of a batch, on the model's device.
        train: weights of the terms, and for which share of the images levels are predicted.
        precision: `bf16` (the networks under autocast; the objectives stay in fp32) or `fp32`.
    """
    if isinstance(inputs, CropInputs):
        with torch.autocast(inputs.crops.device.type, torch.bfloat16, enabled=precision == "bf16"):
            seen = model.see_crops(inputs.crops, inputs.places)
        return crops_loss(seen, train.whole_image, directions=inputs.directions)
    views = inputs.views
    with torch.autocast(views.context.device.type, torch.bfloat16, enabled=precision == "bf16"):
        outputs: dict[str, Any] = model(
            views.context,
            inputs.masks,
            target_images=views.target,
            other_images=views.others,
            other_context=inputs.other_context,
            num_predicted=round(len(views.context) * train.predicted_share),
        )
    return training_loss(outputs, train, directions=inputs.directions)

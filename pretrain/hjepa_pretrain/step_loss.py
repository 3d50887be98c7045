"""What a step minimises, as a function of networks and inputs: what is trained, counted and measured is this."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hjepa_pretrain.config import TrainSettings
from hjepa_pretrain.models import HJEPA
from hjepa_pretrain.objective import training_loss
from hjepa_pretrain.step_inputs import StepInputs


def step_loss(
    model: HJEPA, inputs: StepInputs, train: TrainSettings, *, precision: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its terms, scalars: no branch looks at a value, so that it compiles to one graph.

    Args:
        model: in training mode.
        inputs: of a part of a batch, on the model's device.
        train: weights of the terms, and for which share of the images levels are predicted.
        precision: `bf16` (the networks under autocast; the objectives stay in fp32) or `fp32`.
    """
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

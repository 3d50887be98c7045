"""Whether torch.compile is worth its time for a run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hjepa_eval.encoders.inference import can_compile
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.config import TrainSettings

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

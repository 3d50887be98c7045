"""`Learner`: what `fit` trains, a model that knows its loss, its moving average, and what it makes of a state."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.jepa.saved import BaseModel


class Learner(BaseModel):
    """A model with an encoder that learns, and perhaps its moving average.

    Attributes:
        ema: schedule of the moving average's momentum; None without one.
        saved_names: how names of the encoders' tensors begin, in the model and in a checkpoint's `encoder`.
    """

    ema: EmaSchedule | None = None
    saved_names: Mapping[str, str] = {"encoder.": "context.", "target_encoder.": "target."}

    @abstractmethod
    def training_loss(self, batch: Any, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and detached scalars to log, of which `loss` is the first.

        Args:
            batch: a state with the examples of a step.
            generator: of everything that is drawn, on the CPU.
        """

    @abstractmethod
    def levels(self, batch: Any) -> list[Tensor]:
        """Return what an evaluation reads of a batch: one `[B, T_l, D_l]` per level."""

    @abstractmethod
    def watched(self) -> dict[str, nn.Module]:
        """Return parts whose gradients are logged apart; one of them is `encoder`."""

    def update_target(self, momentum: float) -> None:
        """Move the moving average; nothing where there is none."""


def moving_average(module: nn.Module) -> nn.Module:
    """Return a copy of `module` as it is now, that never gets a gradient."""
    copied = copy.deepcopy(module).requires_grad_(False)
    return copied.eval()


@torch.no_grad()
def move(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Set parameters to `momentum` times themselves plus `1 - momentum` times the module's; buffers are copied.

    Running statistics of BatchNorm are buffers: they are averages already.
    """
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1.0 - momentum)
    for mine, other in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(other)

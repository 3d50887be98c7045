"""Learning rate, target momentum and seen tokens as functions of progress.

Progress is the share of the steps that is done, or of the time that is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from hjepa_eval.errors import ConfigError, unknown

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings

LearningRateShape = Literal["cosine", "constant", "cooldown"]
EmaShape = Literal["cosine", "linear"]

PARTS = 8


def learning_rate(
    progress: float, *, peak: float, warmup: float, shape: LearningRateShape, cooldown: float = 0.25, final: float = 0.0
) -> float:
    """Return the learning rate at `progress` in [0, 1].

    Args:
        progress: share of the training that is done.
        peak: highest rate.
        warmup: share during which the rate rises linearly from zero.
        shape: `cosine` falls to `final` right after the warm-up; `constant` stays; `cooldown` stays and falls linearly
            to `final` over the last part, which time-boxed runs can be stopped before.
        cooldown: share of that last part.
        final: lowest rate at the end.

    Raises:
        UnknownNameError: there is no such shape.
    """
    if shape not in get_args(LearningRateShape):
        raise unknown("schedule", shape, get_args(LearningRateShape))
    if progress < warmup:
        return peak * progress / warmup
    if shape == "cosine":
        position = min((progress - warmup) / max(1.0 - warmup, 1e-12), 1.0)
        return final + (peak - final) * (1.0 + math.cos(math.pi * position)) / 2.0
    if shape == "cooldown" and progress > 1.0 - cooldown:
        left = max(1.0 - progress, 0.0) / cooldown
        return final + (peak - final) * left
    return peak


@dataclass(frozen=True)
class EmaSchedule:
    """Momentum of the target encoder: `end - (end - base)(1 + cos(pi t / T)) / 2` over ALL steps T, or linear.

    Erratum: document 000 prints `base + (end - base)(1 + cos(pi t / T)) / 2`, which falls from `end` to `base`.

    Attributes:
        base: momentum at step 0 and during the warm-up.
        end: momentum at the last step.
        total_steps: all steps `T`; None when only the progress is known.
        warmup_steps: steps held at `base` before the schedule begins.
        shape: of the rise.
    """

    base: float = 0.996
    end: float = 1.0
    total_steps: int | None = None
    warmup_steps: int = 0
    shape: EmaShape = "cosine"

    def __post_init__(self) -> None:
        if not 0.0 <= self.base <= self.end <= 1.0:
            raise ConfigError(f"EMA momentum must rise within [0, 1], found {self.base} to {self.end}")
        if self.shape not in get_args(EmaShape):
            raise unknown("EMA schedule", self.shape, get_args(EmaShape))

    @property
    def needs_length(self) -> bool:
        """Whether the momentum should rise, and how long the training is was not said."""
        return self.total_steps is None and self.base != self.end

    def momentum(self, step: int, *, progress: float | None = None) -> float:
        """Return the momentum at `step`; `progress` in [0, 1] replaces step / total_steps.

        Without a progress and without `total_steps` the momentum stays at `base`. With a progress the schedule begins
        after the warm-up too: the share that the warm-up took is what so many steps take at the speed so far.
        """
        if step < self.warmup_steps:
            return self.base
        if progress is None:
            if self.total_steps is None:
                return self.base
            span = max(self.total_steps - 1 - self.warmup_steps, 1)
            progress = (step - self.warmup_steps) / span
        elif self.warmup_steps:
            # (p - q) / (1 - q) with q = p * warmup / step. It is 0 when the warm-up ends and 1 at the end, and rises
            # with step and progress at any speed; nothing need be remembered, so a resumed run goes on with it.
            share = min(max(progress, 0.0), 1.0)
            progress = share * (step - self.warmup_steps) / max(step - share * self.warmup_steps, 1e-12)
        progress = min(max(progress, 0.0), 1.0)
        rest = (1.0 + math.cos(math.pi * progress)) / 2.0 if self.shape == "cosine" else 1.0 - progress
        return self.end - (self.end - self.base) * rest


def context_count(masking: MaskingSettings, num_patches: int, progress: float) -> int:
    """Return how many tokens of each image are seen at `progress` in [0, 1].

    `mask_ratio` moves to `mask_ratio_end` in eight equal parts of the training, from exactly the one to exactly the
    other: every new count compiles the step again, so there are few of them.
    """
    if masking.mask_ratio is None:
        return masking.context_tokens or max(1, num_patches * 3 // 8)
    part = min(int(progress * PARTS), PARTS - 1) / (PARTS - 1)
    end = masking.mask_ratio if masking.mask_ratio_end is None else masking.mask_ratio_end
    ratio = masking.mask_ratio + (end - masking.mask_ratio) * part
    return min(max(round(num_patches * (1 - ratio)), 1), num_patches - 1)

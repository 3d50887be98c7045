"""What a trainer's levels look like now: features of the bank and of held-out images, and what they come to."""

from __future__ import annotations

from typing import Any

import torch

from hjepa_pretrain.diagnostics import diagnose
from hjepa_pretrain.models.encoders import ContextEncoder
from hjepa_pretrain.readouts import LevelFeatures, readouts
from hjepa_pretrain.trainer import Trainer
from hjepa_pretrain.training_data import LabelledImages

_BATCH = 256


def measure_levels(trainer: Trainer) -> dict[str, Any]:
    """Return the diagnosis of both encoders' levels; weights, modes and random numbers stay as they are.

    All ranks must ask. The leader measures, and all get what it found.
    """
    encoders = trainer.whole_encoders()
    return trainer.ranks.share({} if encoders is None else _measure(trainer, *encoders))


def _measure(trainer: Trainer, context_encoder: ContextEncoder, target_encoder: ContextEncoder) -> dict[str, Any]:
    bank, held_out = trainer.data.bank, trainer.data.held_out

    def read(encoder: ContextEncoder, images: LabelledImages) -> list[LevelFeatures]:
        training = encoder.training
        encoder.eval()
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.precision == "bf16"):
            levels = readouts(encoder, torch.split(images.images, _BATCH), normalise=trainer.transform.normalise)
        encoder.train(training)
        return levels

    target = read(target_encoder, bank)
    unseen = read(target_encoder, held_out) if len(held_out.labels) else None
    context = read(context_encoder, bank)
    return diagnose(target, bank.labels, context=context, held_out=unseen, held_out_labels=held_out.labels)

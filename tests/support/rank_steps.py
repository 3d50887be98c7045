"""Steps of a trainer under any number of ranks, for `test_distributed`: SETTINGS OUT STEPS [PARTS [BACKEND]].

Every rank writes all tensors and the loss trace to OUT.RANK. With PARTS, one process draws what so many ranks would
have drawn for their parts of a batch, and computes with all of it at once. BACKEND compiles the loss.
"""

from __future__ import annotations

import json
import sys

import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.data.step_inputs import StepInputMaker, StepInputs
from hjepa_pretrain.data.training_data import load_training_data
from hjepa_pretrain.data.views import Views
from hjepa_pretrain.distributed.processes import ranks_together
from hjepa_pretrain.masks import Masks
from hjepa_pretrain.models import HJEPA
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training.optimizer import moments
from hjepa_pretrain.training.sharding import gather
from hjepa_pretrain.training.trainer import Trainer
from torch import Tensor
from torch._dynamo.utils import counters

from hjepa_eval.datasets import load_dataset


class Joined:
    """Draws the inputs of the parts of several ranks and puts them together."""

    def __init__(self, maker: StepInputMaker, count: int) -> None:
        self.maker, self.count = maker, count

    def __call__(self, images: Tensor, model: HJEPA, *, number: int, progress: float, shared: int) -> StepInputs:
        parts = [
            self.maker(part, model, number=number * self.count + rank, progress=progress, shared=shared)
            for rank, part in enumerate(images.chunk(self.count))
        ]
        views, masks = [part.views for part in parts], [part.masks for part in parts]
        others = [view.others for view in views if view.others is not None]
        contexts = [part.other_context for part in parts if part.other_context is not None]
        return StepInputs(
            Views(
                torch.cat([view.context for view in views]),
                torch.cat([view.target for view in views]),
                torch.cat(others, dim=1) if others else None,
            ),
            Masks(
                **{
                    name: None if value is None else torch.cat([getattr(mask, name) for mask in masks])
                    for name, value in vars(masks[0]).items()
                }
            ),
            torch.cat(contexts, dim=1) if contexts else None,
            parts[0].directions,
        )


def main(settings_json: str, out: str, steps: str, parts: str = "1", backend: str = "") -> None:
    torch.set_num_threads(1)
    with ranks_together("cpu") as ranks:
        settings = build_settings(json.loads(settings_json), "test")
        dataset = load_dataset("digits", "train")
        transform = run_transform(settings, resolve_geometry(settings))
        data = load_training_data(settings, dataset, transform, device=ranks.device, rank=ranks.rank, ranks=ranks.count)
        compiled = settings.train.compile == "on"
        trainer = Trainer(settings, data, transform, device=ranks.device, compiled=compiled, ranks=ranks)
        if int(parts) > 1:
            trainer.inputs = Joined(trainer.inputs, int(parts))  # type: ignore[assignment]
        if backend:
            # Without breaks: what cannot be part of the graph is an error.
            trainer.loss = torch.compile(trainer.loss, fullgraph=True, dynamic=False, backend=backend)
        losses = []
        for step in range(int(steps)):
            trainer.train_step(step / int(steps))
            losses.append(trainer.take_losses(last_good="none"))
        encoder, rest = trainer.tensors()
        everything = {**trainer.model.state_dict(), **moments(trainer.optimizer, trainer.model)}
        tensors = gather(everything, keep=True)  # On every rank, to be compared.
        held = sum(getattr(p, "_local_tensor", p).numel() for p in trainer.model.parameters())
        content = {"tensors": tensors, "saved": {**encoder, **rest}, "losses": losses, "held": held}
        content["graphs"] = counters["stats"]["unique_graphs"]
        torch.save(content, f"{out}.{ranks.rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])

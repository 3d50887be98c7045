"""The steps of an image run: views and masks of a batch, the loss of H-JEPA, and its moving average."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.step_inputs import StepInputMaker
from hjepa_pretrain.data.training_data import TrainingData
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.models import HJEPA, create_hjepa_from_config
from hjepa_pretrain.models.encoders import ContextEncoder, use_plain_attention
from hjepa_pretrain.runs.checkpoint import Checkpoint
from hjepa_pretrain.training.sharding import gather, shard
from hjepa_pretrain.training.step import step_loss
from hjepa_pretrain.training.steps import NotFiniteError, Steps, count_steps

__all__ = ["NotFiniteError", "Trainer"]


class Trainer(Steps):
    """Networks, optimiser and data of an image run."""

    model: HJEPA

    def __init__(
        self,
        settings: PretrainSettings,
        data: TrainingData,
        transform: Transform,
        *,
        device: torch.device,
        compiled: bool = False,
        ranks: ProcessGroup | None = None,
    ) -> None:
        """Build everything for `data`, on `device`, with the loss and its gradients `compiled` or not.

        Under several `ranks` all of them build one, with the same settings.

        Raises:
            HjepaError: the parts do not fit together.
        """
        self.settings, self.data, self.transform = settings, data, transform
        self.geometry = resolve_geometry(settings)
        model = create_hjepa_from_config(
            settings,
            total_steps=count_steps(settings.train, data.order),
            steps_per_epoch=data.order.steps_per_epoch,
        ).to(device)
        network = model.context_encoder.network_name
        self.saved_names = {f"{branch}_encoder.{network}.": f"{branch}." for branch in ("context", "target")}
        model.train()
        if device.type == "cpu":
            # Of both passes only the backward one is slow in the fused kernel; the target encoder has none.
            use_plain_attention(model.context_encoder)
            if model.predictor is not None:
                use_plain_attention(model.predictor)
        super().__init__(model, settings.train, order=data.order, device=device, compiled=compiled, ranks=ranks)
        self.inputs = StepInputMaker(settings, self.geometry, transform)
        self.loss = torch.compile(step_loss, dynamic=False) if compiled and not self.sharded else step_loss

    def _shard(self) -> None:
        """Spread blocks and what lies outside of them over ranks."""
        shard(self.model, self.device, compiled=self.compiled)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Return the uint8 images `[B, 3, H, H]` of `step`, in parts."""
        return self.data.source.batch(step).chunk(self.train.accumulate)

    def loss_of(self, part: Tensor, *, number: int, shared: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of uint8 images `[B, 3, H, H]`, and its terms."""
        inputs = self.inputs(part, self.model, number=number, progress=progress, shared=shared)
        return self.loss(self.model, inputs, self.train, precision=self.precision)

    def momentum(self, step: int, progress: float) -> float:
        """Return the target encoder's momentum in `step`, done at `progress`."""
        return self.model.ema.momentum(step, progress=progress if self.total_steps is None else None)

    def follow(self, step: int, progress: float) -> None:
        """Move the target encoder."""
        self.model.update_target_encoder(step, progress=progress if self.total_steps is None else None)

    def watched(self) -> dict[str, nn.Module]:
        """Return encoder and predictor; without predictions, the encoder alone."""
        predictor = self.model.predictor
        return {"encoder": self.model.context_encoder} | ({} if predictor is None else {"predictor": predictor})

    def whole_encoders(self) -> tuple[ContextEncoder, ContextEncoder] | None:
        """Return context and target encoder with whole weights, to be read only; all ranks must ask.

        The leader gets them, other ranks None. Weights that are spread over ranks are gathered into copies, which take
        the leader's memory for as long as they are kept.
        """
        leader, model = self.ranks.leader, self.model
        if not self.sharded:
            return (model.context_encoder, model.target_encoder) if leader else None
        spread = (model.context_encoder, model.target_encoder)
        states = [gather(encoder.state_dict(), keep=leader) for encoder in spread]
        if not leader:
            return None
        copy = create_hjepa_from_config(self.settings)
        for encoder, state in zip((copy.context_encoder, copy.target_encoder), states, strict=True):
            encoder.load_state_dict(state)
            encoder.to(self.device).eval()
        return copy.context_encoder, copy.target_encoder

    def restore(self, checkpoint: Checkpoint, *, source: str) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            CheckpointError: its tensors do not fit; the first five are listed.
        """
        if self.model.predictor is None:  # Checkpoints of before kept one that nothing trained.
            gone = ("model.predictor.", "model.heads.")
            kept = {name: tensor for name, tensor in checkpoint.trainer.items() if not name.startswith(gone)}
            checkpoint = replace(checkpoint, trainer=kept)
        super().restore(checkpoint, source=source)

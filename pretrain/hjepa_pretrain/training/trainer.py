"""One training step after another: inputs, loss, optimiser, moving average. No file is touched here.

Of several ranks each computes its part of a batch; gradients and logged terms are means over ranks, so weights are the
same on all of them, bit for bit. The draws of R ranks are those of one process with R times `train.accumulate`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import derive_seed
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.precision import resolve_precision
from hjepa_eval.encoders.weights import load_strict
from hjepa_eval.errors import TrainingError, first_few
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.schedules import learning_rate
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.step_inputs import StepInputMaker
from hjepa_pretrain.data.training_data import TrainingData
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.models.encoders import ContextEncoder, use_plain_attention
from hjepa_pretrain.runs.checkpoint import Checkpoint
from hjepa_pretrain.training.optimizer import (
    average_gradients,
    average_running_statistics,
    make_optimizer,
    moments,
    restore_moments,
)
from hjepa_pretrain.training.sharding import exchange_gradients, gather, shard, spread_like, whole
from hjepa_pretrain.training.step import step_loss


class NotFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite.

    Attributes:
        step: the first whose terms were not finite, counted from 1.
        terms: their names.
        images: all images of that step, by their places in the data set.
    """

    def __init__(self, step: int, terms: list[str], images: list[int], *, last_good: str) -> None:
        """Say so; `last_good` is the checkpoint before."""
        super().__init__(
            f"step {step}: not finite: {first_few(terms)} (images {first_few(images, 8)}); last good checkpoint: "
            f"{last_good}; lower train.lr or train.clip, or try train.precision=fp32"
        )
        self.step, self.terms, self.images = step, terms, images

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"step": self.step, "terms": self.terms, "images": self.images}


class Trainer:
    """Networks, optimiser and data of a run. What a step does depends on (seed, step, progress) alone.

    Attributes:
        step: steps done.
        pending: logged terms of this rank in the steps since the last exchange, `[terms]` each, on the device.
        averaged: means over ranks of the terms of the steps between the last log and that exchange, in host memory.
        terms: names of those terms.
        in_step: whether a step is under way, so that weights and moments may not belong together.
        saved_names: how names of the encoders' tensors begin, in the model and in a checkpoint's `encoder`.
    """

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
        self.settings, self.data, self.transform, self.device = settings, data, transform, device
        self.ranks = ranks or ProcessGroup()
        self.sharded = settings.train.parallel == "fsdp" and self.ranks.count > 1
        self.precision = resolve_precision(settings.train.precision, device)
        epochs = settings.train.epochs
        self.total_steps = None if epochs is None else max(1, round(epochs * data.order.steps_per_epoch))
        self.geometry = resolve_geometry(settings)
        self.model = create_hjepa_from_config(
            settings, total_steps=self.total_steps, steps_per_epoch=data.order.steps_per_epoch
        ).to(device)
        network = self.model.context_encoder.network_name
        self.saved_names = {f"{branch}_encoder.{network}.": f"{branch}." for branch in ("context", "target")}
        self.model.train()
        if device.type == "cpu":
            # Of both passes only the backward one is slow in the fused kernel; the target encoder has none.
            use_plain_attention(self.model.context_encoder)
            use_plain_attention(self.model.predictor)
        self.ranks.copy_leaders([*self.model.parameters(), *self.model.buffers()])
        if self.sharded:
            shard(self.model, device, compiled=compiled)
        self.inputs = StepInputMaker(settings, self.geometry, transform)
        self.optimizer = make_optimizer(self.model, settings.train)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.compiled = compiled
        self.loss = torch.compile(step_loss, dynamic=False) if compiled and not self.sharded else step_loss
        self.step = 0
        self.pending: list[Tensor] = []
        self.averaged: list[Tensor] = []
        self.terms: list[str] = []
        self.in_step = False

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return round(self.step / self.data.order.steps_per_epoch, 4)

    def rate(self, progress: float) -> float:
        """Return the learning rate at `progress`."""
        train = self.settings.train
        return learning_rate(
            progress,
            peak=train.lr,
            warmup=train.warmup,
            shape=train.schedule,
            cooldown=train.cooldown,
            final=train.final_lr,
        )

    def train_step(self, progress: float) -> None:
        """Do one optimiser step at `progress` in [0, 1]; nothing here waits for the device."""
        self.in_step = True
        parts = self.settings.train.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        rows = []
        for part, images in enumerate(self.data.source.batch(self.step).chunk(parts)):
            exchange_gradients(self.model, part == parts - 1)
            rows.append(self._backward(images, number=self.step * parts + part, progress=progress))
        if not self.sharded:
            average_gradients(self.parameters)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.train.clip))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        self.optimizer.step()
        average_running_statistics(self.model.context_encoder)
        self.model.update_target_encoder(self.step, progress=progress if self.total_steps is None else None)
        self.pending.append(torch.cat((torch.stack(rows).mean(dim=0), norm.detach().float().view(1))))
        self.step += 1
        self.in_step = False

    def _backward(self, images: Tensor, *, number: int, progress: float) -> Tensor:
        """Add the gradients of a part of a batch, uint8 `[B, 3, H, H]`, and return its terms `[terms]`."""
        own = number * self.ranks.count + self.ranks.rank  # A number that no other part has, on no rank.
        inputs = self.inputs(images, self.model, number=own, progress=progress, shared=number)
        # Dropped paths draw from the global generator, which has no place in a checkpoint.
        torch.manual_seed(derive_seed(self.settings.train.seed, own, "dropped paths"))
        loss, terms = self.loss(self.model, inputs, self.settings.train, precision=self.precision)
        torch.autograd.backward(loss / self.settings.train.accumulate)
        self.terms = [*terms, "gradient_norm"]
        return torch.stack([term.float() for term in terms.values()])

    def take_losses(self, *, last_good: str) -> dict[str, float]:
        """Return the mean of each term over steps and ranks since the last call, and forget them; all ranks must ask.

        Raises:
            NotFiniteError: a term was not finite.
        """
        self._exchange_terms()
        rows = torch.stack(self.averaged)
        bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            row = int(bad[0])
            done = self.step - len(rows) + row  # The step that failed is the one after them.
            terms = [term for term, value in zip(self.terms, rows[row].tolist(), strict=True) if not isfinite(value)]
            raise NotFiniteError(done + 1, terms, self.data.order.whole(done).tolist(), last_good=last_good)
        self.averaged = []
        return dict(zip(self.terms, (round(float(value), 7) for value in rows.mean(dim=0)), strict=True))

    def all_finite(self) -> bool:
        """Tell whether every loss since the last log was finite, on every rank; all ranks must ask."""
        self._exchange_terms()
        return not self.averaged or bool(torch.stack(self.averaged).isfinite().all())

    def _exchange_terms(self) -> None:
        """Turn this rank's pending terms into means over ranks. Once per log or checkpoint, for it waits."""
        if self.pending:
            self.averaged += self.ranks.mean(torch.stack(self.pending).cpu()).unbind()
            self.pending = []

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the encoders, and all others that are needed to go on, whole; all ranks must ask.

        The leader gets them; on other ranks both are empty.
        """
        leader = self.ranks.leader
        self._exchange_terms()
        encoder, trainer = {}, {}
        for name, tensor in gather(self.model.state_dict(), keep=leader).items():
            prefix = next((prefix for prefix in self.saved_names if name.startswith(prefix)), None)
            if prefix is None:
                trainer[f"model.{name}"] = tensor
            else:
                encoder[self.saved_names[prefix] + name.removeprefix(prefix)] = tensor
        kept = gather(moments(self.optimizer, self.model), keep=leader)
        trainer |= {f"optimizer.{name}": tensor for name, tensor in kept.items()}
        if leader and self.averaged:
            trainer["pending"] = torch.stack(self.averaged)
        return encoder, trainer

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
        short = {after: before for before, after in self.saved_names.items()}
        state = {}
        for name, tensor in checkpoint.encoder.items():
            branch, _, rest = name.partition(".")
            state[short.get(f"{branch}.", f"{branch}.") + rest] = tensor
        own = {name: tensor for name, tensor in checkpoint.trainer.items() if name.startswith("model.")}
        state |= {name.removeprefix("model."): tensor for name, tensor in own.items()}
        pattern = self.model.state_dict()
        load_strict(
            self.model, {name: spread_like(tensor, pattern.get(name)) for name, tensor in state.items()}, source=source
        )
        kept = {name: tensor for name, tensor in checkpoint.trainer.items() if name.startswith("optimizer.")}
        named = {name.removeprefix("optimizer."): tensor for name, tensor in kept.items()}
        restore_moments(self.optimizer, self.model, named)
        self.pending = []
        self.averaged = list(checkpoint.trainer["pending"].unbind()) if "pending" in checkpoint.trainer else []
        self.step = int(checkpoint.state["step"])
        self.terms = list(checkpoint.state["terms"])

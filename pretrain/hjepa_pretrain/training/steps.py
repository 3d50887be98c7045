"""One training step after another, of whatever is trained: loss, optimiser, moving average. No file is touched here.

Of several ranks each computes its part of a batch; gradients and logged terms are means over ranks, so weights are the
same on all of them, bit for bit. The draws of R ranks are those of one process with R times `train.accumulate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.datasets.randomness import derive_seed
from hjepa_eval.encoders.weights import load_strict
from hjepa_eval.errors import TrainingError, first_few
from hjepa_eval.machine.devices import resolve_precision
from hjepa_pretrain.config.schedules import learning_rate
from hjepa_pretrain.config.settings import TrainSettings
from hjepa_pretrain.data.batches import BatchOrder
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.runs.checkpoint import Checkpoint
from hjepa_pretrain.training.optimizer import (
    average_gradients,
    average_running_statistics,
    make_optimizer,
    moments,
    restore_moments,
)
from hjepa_pretrain.training.sharding import exchange_gradients, gather, spread_like, whole


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


def count_steps(train: TrainSettings, order: BatchOrder) -> int | None:
    """Return the steps of a whole run; None for a run of minutes."""
    return None if train.epochs is None else max(1, round(train.epochs * order.steps_per_epoch))


class Steps(ABC):
    """A model, its optimiser and its steps. What a step does depends on (seed, step, progress) alone.

    Attributes:
        model: what is trained.
        train: settings of optimisation and budget.
        order: which examples a step works on.
        total_steps: of the whole run; None for a run of minutes.
        step: steps done.
        pending: logged terms of this rank in the steps since the last exchange, `[terms]` each, on the device.
        averaged: means over ranks of the terms of the steps between the last log and that exchange, in host memory.
        terms: names of those terms.
        in_step: whether a step is under way, so that weights and moments may not belong together.
        saved_names: how names of the encoders' tensors begin, in the model and in a checkpoint's `encoder`.
    """

    model: nn.Module
    saved_names: Mapping[str, str]

    def __init__(
        self,
        model: nn.Module,
        train: TrainSettings,
        *,
        order: BatchOrder,
        device: torch.device,
        compiled: bool = False,
        ranks: ProcessGroup | None = None,
    ) -> None:
        """Take a `model` on `device`; under several `ranks` all of them take one, with the same settings."""
        self.model, self.train, self.order, self.device = model, train, order, device
        self.ranks = ranks or ProcessGroup()
        self.sharded = train.parallel == "fsdp" and self.ranks.count > 1
        self.precision = resolve_precision(train.precision, device)
        self.total_steps = count_steps(train, order)
        self.compiled = compiled
        self.ranks.copy_leaders([*model.parameters(), *model.buffers()])
        if self.sharded:
            self._shard()
        self.optimizer = make_optimizer(model, train)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.step = 0
        self.pending: list[Tensor] = []
        self.averaged: list[Tensor] = []
        self.terms: list[str] = []
        self.in_step = False

    @abstractmethod
    def batch(self, step: int) -> Sequence[Any]:
        """Return what `step` works on, on the device, in `train.accumulate` parts."""

    @abstractmethod
    def loss_of(self, part: Any, *, number: int, shared: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a batch, and what is logged of it, scalars; the first of them is `loss`.

        Args:
            part: of `batch`.
            number: that no other part has, in no step and on no rank.
            shared: the number that the parts of all ranks have together.
            progress: share of the training that is done.
        """

    @abstractmethod
    def momentum(self, step: int, progress: float) -> float | None:
        """Return the momentum of the moving average in `step` (from 0), done at `progress`; None without one."""

    @abstractmethod
    def follow(self, step: int, progress: float) -> None:
        """Move the moving average after the optimiser's `step` (from 0), done at `progress`."""

    @abstractmethod
    def watched(self) -> dict[str, nn.Module]:
        """Return parts of the model whose gradients are logged apart, by name; one of them is `encoder`."""

    def _shard(self) -> None:
        """Spread the model over ranks.

        Raises:
            TrainingError: it cannot be.
        """
        raise TrainingError(f"train.parallel fsdp does not shard {type(self.model).__name__}; set it to ddp")

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return round(self.step / self.order.steps_per_epoch, 4)

    def rate(self, progress: float) -> float:
        """Return the learning rate at `progress`."""
        train = self.train
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
        self.optimizer.zero_grad(set_to_none=True)
        rows, parts = [], self.batch(self.step)
        for part, content in enumerate(parts):
            exchange_gradients(self.model, part == len(parts) - 1)
            rows.append(self._backward(content, number=self.step * len(parts) + part, progress=progress))
        if not self.sharded:
            average_gradients(self.parameters)
        norms = [self._norm(part) for part in self.watched().values()]
        norms.append(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.train.clip)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        self.optimizer.step()
        average_running_statistics(self.watched()["encoder"])
        self.follow(self.step, progress)
        lengths = torch.stack([norm.detach().float() for norm in norms])
        self.pending.append(torch.cat((torch.stack(rows).mean(dim=0), lengths)))
        self.step += 1
        self.in_step = False

    def _norm(self, part: nn.Module) -> Tensor:
        """Return the norm of a part's gradients before they are clipped; 0 where it has none."""
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.device)
        return whole(torch.nn.utils.get_total_norm(gradients))

    def _backward(self, part: Any, *, number: int, progress: float) -> Tensor:
        """Add the gradients of a part of a batch, and return its terms `[terms]`."""
        own = number * self.ranks.count + self.ranks.rank  # A number that no other part has, on no rank.
        # Dropped paths draw from the global generator, which has no place in a checkpoint.
        torch.manual_seed(derive_seed(self.train.seed, own, "dropped paths"))
        loss, terms = self.loss_of(part, number=own, shared=number, progress=progress)
        torch.autograd.backward(loss / self.train.accumulate)
        self.terms = [*terms, *(f"gradient_{name}" for name in self.watched()), "gradient_norm"]
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
            raise NotFiniteError(done + 1, terms, self.order.whole(done).tolist(), last_good=last_good)
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
        self.step = int(checkpoint.state["step"])
        self.terms = list(checkpoint.state["terms"])
        # Older versions logged fewer terms: theirs cannot be averaged with those of the steps to come.
        same = all(f"gradient_{name}" in self.terms for name in self.watched())
        self.averaged = list(checkpoint.trainer["pending"].unbind()) if same and "pending" in checkpoint.trainer else []

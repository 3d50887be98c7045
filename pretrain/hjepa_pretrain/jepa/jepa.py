"""`JEPA`: any encoder and any predictor; what the encoder says of the next state is predicted from this one."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hjepa_eval.errors import ConfigError, TrainingError, unknown
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.jepa.learner import Learner, move, moving_average
from hjepa_pretrain.jepa.losses import LOSSES, explained
from hjepa_pretrain.jepa.states import apply, batch_of, check_alike, leaves, map_state

Target = Literal["ema", "stop_gradient", "same"]
TARGETS: tuple[Target, ...] = get_args(Target)


class JEPA(Learner):
    """Encoder, predictor, and who says what is to be predicted.

    Any two modules do. A state that is a tuple is the encoder's arguments, a dict its named arguments; the predictor
    gets what the encoder says, in the same way, and `action` after it when there is one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        *,
        target: Target = "ema",
        loss: str = "smooth_l1",
        normalise_target: bool = True,
        momentum: float = 0.996,
        momentum_end: float = 1.0,
        decoder: nn.Module | None = None,
    ) -> None:
        """Join `encoder` and `predictor`.

        Args:
            encoder: `encoder(state)` has one row per example.
            predictor: `predictor(encoder(state))`, in the shape of what the encoder says.
            target: who says what is to be predicted: `ema`, a moving average of the encoder, begun as its copy;
                `stop_gradient`, the encoder without a gradient; `same`, the encoder with it, which a loss that only
                compares will let collapse.
            loss: of `LOSSES`.
            normalise_target: whether targets get a LayerNorm without parameters, as in I-JEPA; not for
                `reconstruction`.
            momentum: of the moving average at the first step.
            momentum_end: at the last.
            decoder: for `loss="reconstruction"`: from the prediction to the next state itself.

        Raises:
            UnknownNameError: there is no such target or loss.
            ConfigError: `reconstruction` without a decoder, or a decoder without it.
        """
        super().__init__(
            encoder=encoder,
            predictor=predictor,
            target=target,
            loss=loss,
            normalise_target=normalise_target,
            momentum=momentum,
            momentum_end=momentum_end,
            decoder=decoder,
        )
        if target not in TARGETS:
            raise unknown("target", target, TARGETS)
        if loss not in LOSSES:
            raise unknown("loss", loss, LOSSES)
        if (loss == "reconstruction") != (decoder is not None):
            raise ConfigError(
                "loss 'reconstruction' needs a decoder, from a prediction to the next state, and no other does"
            )
        self.encoder, self.predictor, self.decoder = encoder, predictor, decoder
        self.target, self.kind = target, loss
        self.normalise = normalise_target and decoder is None
        averaged = target == "ema" and decoder is None
        self.target_encoder = moving_average(encoder) if averaged else None
        self.ema = EmaSchedule(base=momentum, end=momentum_end) if averaged else None

    def train(self, mode: bool = True) -> JEPA:
        """Set the mode; the moving average stays in evaluation mode."""
        super().train(mode)
        if self.target_encoder is not None:
            self.target_encoder.eval()
        return self

    def forward(self, state_t: Any, state_t1: Any, action: Any = None) -> tuple[Any, Any]:
        """Return the prediction of what the target says of `state_t1`, and what it says.

        Args:
            state_t: a tensor, or a tuple or dict of tensors, one row per example.
            state_t1: the next state, of the same kind.
            action: what happens in between, for a predictor that takes it.

        Raises:
            TrainingError: the states have unlike numbers of examples, or the prediction has another shape.
        """
        now, then = batch_of(state_t, "state_t"), batch_of(state_t1, "state_t1")
        if now != then:
            raise TrainingError(
                f"state_t has {now} examples and state_t1 has {then}; give each state the one that follows it"
            )
        seen = apply(self.encoder, state_t)
        arguments = tuple(seen) if isinstance(seen, tuple | list) else (seen,)
        prediction = self.predictor(*arguments, *(() if action is None else (action,)))
        target = self._target_of(state_t1)
        if self.decoder is not None:
            prediction = self.decoder(prediction)
        check_alike(prediction, target)
        return prediction, target

    def _target_of(self, state: Any) -> Any:
        if self.decoder is not None:
            return state
        if self.target == "same":
            return self._normalised(apply(self.encoder, state))
        with torch.no_grad():
            return self._normalised(apply(self.target_encoder or self.encoder, state))

    def _normalised(self, state: Any) -> Any:
        if not self.normalise:
            return state
        return map_state(lambda tensor: nn.functional.layer_norm(tensor.float(), tensor.shape[-1:]), state)

    def loss(self, pred: Any, target: Any) -> Tensor:
        """Return the error of a prediction, a scalar: the mean over its tensors.

        Raises:
            TrainingError: they have unlike parts or shapes.
        """
        check_alike(pred, target)
        pairs = zip(leaves(pred), leaves(target), strict=True)
        return torch.stack([LOSSES[self.kind](mine, theirs) for (_, mine), (_, theirs) in pairs]).mean()

    def training_loss(self, batch: Any, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch `(state_t, state_t1)` or `(state_t, state_t1, action)`, and `r2`.

        Raises:
            TrainingError: the batch is no such tuple.
        """
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TrainingError("a JEPA is fitted on (state_t, state_t1), or (state_t, state_t1, action)")
        prediction, target = self(*batch)
        loss = self.loss(prediction, target)
        pairs = zip(leaves(prediction), leaves(target), strict=True)
        r2 = torch.stack([explained(mine, theirs) for (_, mine), (_, theirs) in pairs]).mean()
        return loss, {"loss": loss.detach(), "r2": r2}

    def levels(self, batch: Any) -> list[Tensor]:
        """Return what the target encoder says of `state_t`: one `[B, T, D]` per tensor of it."""
        said = apply(self.target_encoder or self.encoder, batch[0])
        return [
            tensor.reshape(len(tensor), -1, tensor.shape[-1]) if tensor.ndim > 1 else tensor.view(-1, 1, 1)
            for _, tensor in leaves(said)
        ]

    def watched(self) -> dict[str, nn.Module]:
        """Return encoder and predictor."""
        return {"encoder": self.encoder, "predictor": self.predictor}

    def update_target(self, momentum: float) -> None:
        """Move the moving average."""
        if self.target_encoder is not None:
            move(self.target_encoder, self.encoder, momentum)

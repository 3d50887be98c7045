"""`SaccadeJEPA`: what an eye sees after a small movement is predicted from what it sees before, and the movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.encoders.stages import create_stages, stage_maps
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.jepa.learner import Learner, move, moving_average
from hjepa_pretrain.jepa.losses import explained
from hjepa_pretrain.jepa.movements import draw_poses, inverse, look, movement_between, told
from hjepa_pretrain.jepa.predictors import Predictor
from hjepa_pretrain.objectives.losses import cycle_consistency, elementwise_error
from hjepa_pretrain.objectives.vicreg import covariance_penalty, invariance, variance_hinge


class SaccadeJEPA(Learner):
    """A network with stages, its moving average, and a predictor that is told the movement.

    The loss is Huber between prediction and target, plus cycle consistency with the inverse movement, plus the three
    terms of VICReg: invariance between prediction and target, variance and covariance of what the network says.

    Source: document 004. Deviations: the cycle is a share of what there was to lose, so that collapse costs it most
        (`cycle_consistency`); the movement is undone as a movement, before it is written as sine and cosine.
    """

    saved_names: Mapping[str, str] = {"network.": "context.", "target_network.": "target."}

    def __init__(
        self,
        network: str = "resnet18",
        *,
        image_size: int = 32,
        levels: int = 3,
        shift: float = 0.25,
        rotation: float = 20.0,
        cycle: float = 1.0,
        invariance_weight: float = 1.0,
        variance_weight: float = 1.0,
        covariance_weight: float = 0.04,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        momentum: float = 0.99,
        momentum_end: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Build the timm model `network` with fresh weights; its last stages are the `levels`.

        Args:
            network: any timm model with stages.
            image_size: side of the images in pixels.
            levels: stages that an evaluation reads.
            shift: largest shift of a view, as a share of half of the image's side.
            rotation: largest angle of a view in degrees.
            cycle: weight of the way there and back.
            invariance_weight: of VICReg's invariance between prediction and target.
            variance_weight: of its variance hinge.
            covariance_weight: of its covariance.
            mean: subtracted per channel, pixels in [0, 1].
            std: divides each channel.
            momentum: of the moving average at the first step.
            momentum_end: at the last.
            seed: of the weights.

        Raises:
            ConfigError: the views do not move.
            HjepaError: there is no such network, or it has not so many stages.
        """
        super().__init__(
            network=network,
            image_size=image_size,
            levels=levels,
            shift=shift,
            rotation=rotation,
            cycle=cycle,
            invariance_weight=invariance_weight,
            variance_weight=variance_weight,
            covariance_weight=covariance_weight,
            mean=list(mean),
            std=list(std),
            momentum=momentum,
            momentum_end=momentum_end,
            seed=seed,
        )
        if not shift and not rotation:
            raise ConfigError("a saccade moves: give a shift or a rotation above 0")
        self.network: Any = create_stages(network, seed=seed, image_size=image_size)
        count = len(self.network.feature_info)
        if not 1 <= levels <= count:
            raise ConfigError(f"levels {levels}: {network} has {count} stages; ask for 1 to {count}")
        self.stages = list(range(count))[-levels:]
        self.target_network: Any = moving_average(self.network)
        with torch.no_grad():
            self.network.eval()
            width = stage_maps(self.network, torch.zeros(1, 3, image_size, image_size), self.stages[-1:])[0].shape[1]
            self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.predictor = Predictor(width, action_dim=4)
        self.shift, self.rotation = shift, rotation
        self.weights = (cycle, invariance_weight, variance_weight, covariance_weight)
        self.ema = EmaSchedule(base=momentum, end=momentum_end)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> SaccadeJEPA:
        """Set the mode; the moving average stays in evaluation mode, with its running statistics."""
        super().train(mode)
        self.target_network.eval()
        return self

    def normalised(self, images: Tensor) -> Tensor:
        """Return the network's input of uint8 images `[B, 3, H, H]`."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images.float() / 255 - mean) / std

    def vectors(self, network: Any, images: Tensor) -> Tensor:
        """Return fp32 `[B, D]`, the mean over the last stage's cells, of normalised images."""
        return stage_maps(network, images, self.stages[-1:])[0].float().mean(dim=(2, 3))

    def training_loss(self, batch: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of uint8 images `[B, 3, H, H]`, and its terms without their weights."""
        images = self.normalised(batch)
        poses = [
            draw_poses(len(images), shift=self.shift, rotation=self.rotation, generator=generator) for _ in range(2)
        ]
        before, after = (look(images, pose) for pose in poses)
        movement = movement_between(*poses).to(images.device)
        seen = self.vectors(self.network, before)
        predicted = self.predictor(seen, told(movement)).float()
        with torch.no_grad():
            target = self.vectors(self.target_network, after)
        back = self.predictor(predicted, told(inverse(movement))).float()
        terms = {
            "prediction": elementwise_error(predicted, target, kind="huber").mean(),
            "cycle": cycle_consistency(seen, back),
            "invariance": invariance(predicted, target),
            "variance": variance_hinge(seen),
            "covariance": covariance_penalty(seen),
        }
        loss = terms["prediction"]
        for weight, name in zip(self.weights, list(terms)[1:], strict=True):
            loss = loss + weight * terms[name]
        logged = {"loss": loss, **terms, "r2": explained(predicted, target)}
        return loss, {name: term.detach() for name, term in logged.items()}

    def levels(self, batch: Tensor) -> list[Tensor]:
        """Return the cells `[B, T_l, D_l]` of the moving average's last stages for uint8 images."""
        maps = stage_maps(self.target_network, self.normalised(batch), self.stages)
        return [stage.flatten(2).transpose(1, 2) for stage in maps]

    def watched(self) -> dict[str, nn.Module]:
        """Return network and predictor."""
        return {"encoder": self.network, "predictor": self.predictor}

    def update_target(self, momentum: float) -> None:
        """Move the moving average; BatchNorm's running statistics are copied, they are averages already."""
        move(self.target_network, self.network, momentum)

    def run_encoder(self) -> dict[str, Any]:
        """Return what a run's `config.json` says of the encoder, so that `hjepa eval` builds it again."""
        arguments = {"seed": self.config["seed"], "image_size": self.config["image_size"]}
        return {
            "stages": self.config["network"],
            "arguments": arguments,
            "taps": [stage + 1 for stage in self.stages],
        }

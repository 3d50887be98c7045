"""How a fine-tuning is run: its hyper-parameters, and the learning rate and targets that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.randomness import derive_seed, seeded_generator
from hjepa_eval.datasets.transform import Crops, View
from hjepa_eval.errors import ConfigError
from hjepa_eval.machine.devices import send

RATE_IMAGES = 256  # The images that `lr` is given for; the rate grows in proportion to the batch.


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a fine-tuning.

    Source: the defaults lie between MAE's fine-tuning (AdamW, layer decay 0.75, weight decay 0.05, base rate 5e-4) and
        I-JEPA's with few labels (label smoothing 0.1, crops only).

    Attributes:
        epochs: passes over the train images that are not held out.
        batch_size: images per step.
        lr: highest learning rate, of the head, per 256 images of a batch.
        weight_decay: of matrices; biases, norms, positions and tokens have none.
        layer_decay: factor on the learning rate from each layer to the one before it, counted from the head.
        warmup_epochs: epochs during which the rate rises linearly; a tenth of all when None.
        label_smoothing: share of a target that is spread over all classes.
        mixup: alpha of the Beta distribution that pairs of images are mixed by; 0 mixes none.
        crop_scale: smallest and largest share of an image that a crop keeps.
        flip: mirror half of the images.
        seed: of head, order, crops, mixing and dropped paths.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 5e-4
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    mixup: float = 0.0
    crop_scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"fine-tuning for {self.epochs} epochs trains nothing; give at least 1")
        if self.warmup >= self.epochs:
            raise ConfigError(f"a warm-up of {self.warmup:g} epochs leaves none of {self.epochs} to train in; lower it")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"crop_scale {low:g},{high:g} must rise within (0, 1], such as 0.35,1")

    @property
    def warmup(self) -> float:
        """Epochs of warm-up."""
        return self.epochs / 10 if self.warmup_epochs is None else self.warmup_epochs

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.lr * self.batch_size / RATE_IMAGES

    def rate(self, step: int, *, steps_per_epoch: int) -> float:
        """Return the learning rate of a `step` from 0: linear warm-up, then a cosine that ends at 0."""
        warmup, total = round(self.warmup * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.peak * (step + 1) / warmup
        return self.peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

    def view(self, epoch: int) -> View:
        """Return how the images of an epoch from 0 are cropped and mirrored."""
        return View(epoch + 1, self.seed, Crops(scale=self.crop_scale, flip=self.flip))

    def order(self, num_images: int, epoch: int) -> Tensor:
        """Return int64 `[num_images]`: a new permutation every epoch."""
        return torch.randperm(num_images, generator=seeded_generator(self.seed, epoch, "order"))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of `[B, C]` with soft targets `[B, C]` after label smoothing."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def mix(self, images: Tensor, targets: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Return float images and soft targets `[B, C]`, mixed with a shuffled copy of the batch unless `mixup` is 0.

        Source: Zhang et al., "mixup", arXiv:1710.09412: one weight per batch, from Beta(alpha, alpha).
        """
        if self.mixup == 0:
            return images, targets
        draw = np.random.default_rng(derive_seed(self.seed, step, "mixup"))
        share = float(draw.beta(self.mixup, self.mixup))
        other = send(torch.from_numpy(draw.permutation(len(images))), images.device)
        return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other]

"""One training step after another: views, masks, loss, optimiser, moving average. No file is touched here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import derive_seed, seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.precision import resolve_device, resolve_precision
from hjepa_eval.encoders.weights import load_strict
from hjepa_eval.errors import TrainingError, first_few
from hjepa_pretrain.batches import BatchOrder
from hjepa_pretrain.checkpoint import Checkpoint
from hjepa_pretrain.config import PretrainSettings
from hjepa_pretrain.diagnostics import check_collapse, measure, readouts
from hjepa_pretrain.geometry import resolve_geometry
from hjepa_pretrain.masks import Masks, MultiBlockMaskGenerator
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.models.attention import use_plain_attention
from hjepa_pretrain.objective import training_loss
from hjepa_pretrain.optimizer import make_optimizer, moments, restore_moments
from hjepa_pretrain.schedules import learning_rate
from hjepa_pretrain.views import Views, make_views, random_tokens

_ENCODERS = {"context_encoder.vit.": "context.", "target_encoder.vit.": "target."}


class Trainer:
    """Networks, optimiser and data of a run. What a step does depends on (seed, step, progress) alone.

    Attributes:
        step: steps done.
        pending: logged terms of the steps since the last log, `[terms]` each, on the device.
        terms: names of those terms.
        in_step: whether a step is under way, so that weights and moments may not belong together.
    """

    def __init__(self, settings: PretrainSettings, images: Tensor, labels: Tensor, transform: Transform) -> None:
        """Build everything for uint8 images `[N, 3, S, S]` with labels `[N]`, which only diagnostics look at.

        Raises:
            HjepaError: the device is not there, or the images do not fill a batch.
        """
        self.settings, self.transform = settings, transform
        self.device = resolve_device(settings.train.device)
        self.precision = resolve_precision(settings.train.precision, self.device)
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.order = BatchOrder(len(images), settings.train.batch_size, seed=settings.train.seed)
        epochs = settings.train.epochs
        self.total_steps = None if epochs is None else max(1, round(epochs * self.order.steps_per_epoch))
        self.geometry = resolve_geometry(settings)
        self.context_tokens = self.geometry.context_tokens(settings.masking)
        self.model = create_hjepa_from_config(
            settings, total_steps=self.total_steps, steps_per_epoch=self.order.steps_per_epoch
        ).to(self.device)
        self.model.train()
        if self.device.type == "cpu":
            # Of both passes only the backward one is slow in the fused kernel; the target encoder has none.
            use_plain_attention(self.model.context_encoder)
            use_plain_attention(self.model.predictor)
        self.optimizer = make_optimizer(self.model, settings.train)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.masks = self._mask_generator()
        self.step = 0
        self.pending: list[Tensor] = []
        self.terms: list[str] = []
        self.in_step = False

    def _mask_generator(self) -> MultiBlockMaskGenerator:
        masking = self.settings.masking
        return MultiBlockMaskGenerator(
            self.geometry.image_size,
            self.geometry.patch_size,
            masking.num_masks,
            masking.mask_scale,
            masking.context_scale,
            masking.aspect_ratio,
            masking.max_attempts,
            allow_target_overlap=masking.allow_target_overlap,
            min_keep=self.context_tokens,
            seed=self.settings.train.seed,
        )

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
        seed = self.settings.train.seed
        images = self.images[self.order.indices(self.step).to(self.device)]
        views = make_views(images, self.settings.data, self.transform, seed=seed, step=self.step)
        # Dropped paths draw from the global generator, which has no place in a checkpoint.
        torch.manual_seed(derive_seed(seed, self.step, "dropped paths"))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self._forward(views)
        loss, terms = training_loss(outputs, self.settings.train, step=self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.train.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        self.optimizer.step()
        self.model.update_target_encoder(self.step, progress=progress if self.total_steps is None else None)
        terms["gradient_norm"] = norm.detach()
        self.terms = list(terms)
        self.pending.append(torch.stack([term.float() for term in terms.values()]))
        self.step += 1
        self.in_step = False

    def _forward(self, views: Views) -> dict[str, Any]:
        masks = self._sample_masks(len(views.context))
        context = None
        if views.second is not None:
            generator = seeded_generator(self.settings.train.seed, self.step, "second view", self.device)
            patches = self.geometry.num_patches
            context = random_tokens(len(views.context), patches, self.context_tokens, generator=generator)
        outputs: dict[str, Any] = self.model(
            views.context,
            masks,
            target_images=views.target,
            second_images=views.second,
            second_context=context,
            num_predicted=max(1, round(len(views.context) * self.settings.train.predicted_share)),
        )
        return outputs

    def _sample_masks(self, batch: int) -> Masks:
        return self.masks.sample(
            batch,
            self.device,
            step=self.step,
            context_tokens=self.context_tokens,
            target_tokens=self.geometry.target_tokens(self.settings.masking),
        )

    def take_losses(self, *, last_good: str) -> dict[str, float]:
        """Return the mean of each term since the last call, and forget them.

        Raises:
            TrainingError: a loss was not finite; the message names the step, its images and the last good checkpoint.
        """
        rows = torch.stack(self.pending).cpu()
        bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            step = self.step - len(rows) + int(bad[0])
            indices = first_few(self.order.indices(step).tolist(), 8)
            raise TrainingError(
                f"step {step}: the loss is not finite (images {indices}); last good checkpoint: {last_good}; "
                "lower train.lr or train.clip, or try train.precision=fp32"
            )
        self.pending = []
        return dict(zip(self.terms, (round(float(value), 7) for value in rows.mean(dim=0)), strict=True))

    def measure(self) -> dict[str, Any]:
        """Return std, RankMe and nearest-neighbour score of the target encoder's levels on the first images.

        Raises:
            TrainingError: a level has collapsed.
        """
        count = min(self.settings.diagnostics.bank, len(self.images))
        if count < 2:
            return {}
        images = self.transform.normalise(self.images[:count])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = readouts(self.model.target_encoder, images)
        measures = measure(features, self.labels[:count])
        check_collapse(measures, smallest=self.settings.diagnostics.smallest_std, step=self.step)
        return measures

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the encoders, and all others that are needed to go on."""
        encoder, trainer = {}, {}
        for name, tensor in self.model.state_dict().items():
            prefix = next((prefix for prefix in _ENCODERS if name.startswith(prefix)), None)
            if prefix is None:
                trainer[f"model.{name}"] = tensor
            else:
                encoder[_ENCODERS[prefix] + name.removeprefix(prefix)] = tensor
        trainer |= {f"optimizer.{name}": tensor for name, tensor in moments(self.optimizer, self.model).items()}
        if self.pending:
            trainer["pending"] = torch.stack(self.pending)
        return encoder, trainer

    def restore(self, checkpoint: Checkpoint, *, source: str) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            CheckpointError: its tensors do not fit; the first five are listed.
        """
        short = {after: before for before, after in _ENCODERS.items()}
        state = {}
        for name, tensor in checkpoint.encoder.items():
            branch, _, rest = name.partition(".")
            state[short.get(f"{branch}.", f"{branch}.") + rest] = tensor
        own = {name: tensor for name, tensor in checkpoint.trainer.items() if name.startswith("model.")}
        state |= {name.removeprefix("model."): tensor for name, tensor in own.items()}
        load_strict(self.model, state, source=source)
        kept = {name: tensor for name, tensor in checkpoint.trainer.items() if name.startswith("optimizer.")}
        named = {name.removeprefix("optimizer."): tensor for name, tensor in kept.items()}
        restore_moments(self.optimizer, self.model, named)
        self.pending = list(checkpoint.trainer["pending"].to(self.device)) if "pending" in checkpoint.trainer else []
        self.step = int(checkpoint.state["step"])
        self.terms = list(checkpoint.state["terms"])

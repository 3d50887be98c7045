"""Fine-tuning: train encoder and head on labels, watch a held-out part of train, touch test once at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.randomness import derive_seed
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import DataError, TrainingError
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.finetune.checkpoint import State, restore, save_checkpoint, write_tensors
from hjepa_eval.finetune.classifier import Classifier
from hjepa_eval.finetune.images import TrainingImages
from hjepa_eval.finetune.recipe import Recipe
from hjepa_eval.machine.devices import float32_products, send

_CHECK_STEPS = 50


@dataclass(frozen=True)
class Running:
    """Where and how a fine-tuning runs; only `precision` and `skip_bad` are part of what it is.

    Attributes:
        device: of the network.
        precision: `bf16`, `tf32` or `fp32`, of the encoder.
        workers: decoding threads.
        skip_bad: leave out images that cannot be read instead of stopping.
    """

    device: torch.device
    precision: str
    workers: int = 2
    skip_bad: bool = False


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning found.

    Attributes:
        logits: float32 `[N, C]` of the test images, after the last epoch.
        labels: int64 `[N]` of the test images.
        index: int64 `[N]`, their places in the test split's order.
        curve: per epoch `train_loss` and `held_out_accuracy`.
        trained_images: how many the network learned from.
        held_out_images: how many the curve rests on.
        skipped: images of each split that could not be read, and why.
        weights: sha256 of the encoder's new weights.
        one_layer: whether the encoder's layers are unknown, so that they share one learning rate.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    curve: tuple[dict[str, float], ...]
    trained_images: int
    held_out_images: int
    skipped: dict[str, tuple[str, ...]]
    weights: str
    one_layer: bool


def finetune(
    encoder: Encoder,
    splits: Mapping[str, ImageDataset],
    *,
    recipe: Recipe,
    level: int,
    readout: str,
    held_out: npt.NDArray[np.int64],
    counts: Mapping[str, int],
    running: Running,
    run_dir: Path,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Finetuned:
    """Fine-tune `encoder` in place and return what it scores; checkpoint and final weights lie in `run_dir`.

    The encoder of the last epoch is the one that is tested: neither the curve nor test chooses an epoch.

    Args:
        encoder: read at `level`; only its blocks up to that level's tap are trained.
        splits: `train` and `test`.
        recipe: hyper-parameters.
        level: index of the level that the head reads.
        readout: tokens to one vector.
        held_out: indices of train images that are measured after every epoch and never learned from.
        counts: how many images of each split take part, the first of its order.
        running: where and how.
        run_dir: folder of the run.
        resume: go on after the last finished epoch in `run_dir`; the result is the same as without a break.
        progress: called with (steps done in this call, steps to do in it, remark) after each step.

    Raises:
        TrainingError: the loss is not finite, or `resume` meets another recipe, encoder or dataset.
        CheckpointError: the run's folder cannot be written, or its checkpoint is damaged.
        DataError: an image cannot be read.
        EncoderError: the encoder cannot be trained at this level.
    """
    identity = {
        "recipe": asdict(recipe),
        "encoder": encoder.identity(),
        "train": {"fingerprint": splits["train"].fingerprint, "images": counts["train"]},
        "level": level,
        "readout": readout,
        "held_out": hash_json(held_out.tolist()),
        "precision": running.precision,
        "skip_bad": running.skip_bad,
    }
    encoder.to(running.device)
    drawn_from = [running.device] if running.device.type == "cuda" else []
    with torch.random.fork_rng(devices=drawn_from), float32_products(running.precision):
        run = _Run(encoder, splits["train"], recipe, level, readout, held_out, counts["train"], running)
        state = restore(run_dir, run.model, run.optimizer, identity) if resume else State(identity)
        before = len(state.curve)
        for epoch in range(before, recipe.epochs):
            remark = f"epoch {epoch + 1}/{recipe.epochs}"
            if state.curve:
                remark += f", held-out {100 * state.curve[-1]['held_out_accuracy']:.1f} %"
            entry = run.train_epoch(epoch, _reporter(progress, run, before, remark))
            state = State(identity, (*state.curve, entry), tuple(run.images.skipped))
            save_checkpoint(run_dir, run.model, run.optimizer, state)
        test = TrainingImages(
            splits["test"],
            encoder.transform,
            count=counts["test"],
            workers=running.workers,
            skip_bad=running.skip_bad,
        )
        logits, index = run.predict(test, torch.arange(counts["test"]))
    encoder.to("cpu").eval()
    write_tensors(run_dir / "head.safetensors", run.model.head.state_dict())
    return Finetuned(
        logits=logits,
        labels=splits["test"].labels[index],
        index=index,
        curve=state.curve,
        trained_images=len(run.learned),
        held_out_images=len(held_out),
        skipped={"train": state.skipped, "test": tuple(test.skipped)},
        weights=encoder.weights_hash(),
        one_layer=run.model.layered is None,
    )


def _reporter(
    progress: Callable[[int, int, str], None] | None, run: _Run, before: int, remark: str
) -> Callable[[int], None]:
    """Return a function of the step that tells `progress` how much of what is left after epoch `before` is done."""
    first = before * run.steps_per_epoch

    def report(step: int) -> None:
        if progress is not None:
            progress(step + 1 - first, run.recipe.epochs * run.steps_per_epoch - first, remark)

    return report


class _Run:
    """Network, optimiser and images of a fine-tuning; what a step does depends on (seed, step) alone."""

    def __init__(
        self,
        encoder: Encoder,
        train: ImageDataset,
        recipe: Recipe,
        level: int,
        readout: str,
        held_out: npt.NDArray[np.int64],
        count: int,
        running: Running,
    ) -> None:
        self.recipe, self.device, self.transform = recipe, running.device, encoder.transform
        self.classes = len(train.class_names)
        self.model = Classifier(
            encoder,
            level=level,
            readout=readout,
            num_classes=self.classes,
            seed=recipe.seed,
            bf16=running.precision == "bf16",
        )
        groups = self.model.groups(layer_decay=recipe.layer_decay, weight_decay=recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.peak, fused=True)
        self.images = TrainingImages(
            train, encoder.transform, count=count, workers=running.workers, skip_bad=running.skip_bad
        )
        self.labels = torch.from_numpy(train.labels[:count]).to(self.device)
        self.dataset_labels = train.labels
        self.held_out = torch.from_numpy(held_out)
        self.learned = torch.from_numpy(np.setdiff1d(np.arange(count), held_out))
        # Batches of nearly equal size: no image is left out of an epoch, and none stands alone in a batch norm.
        self.steps_per_epoch = -(-len(self.learned) // recipe.batch_size)
        self.step_images = -(-len(self.learned) // self.steps_per_epoch)

    def train_epoch(self, epoch: int, report: Callable[[int], None]) -> dict[str, float]:
        """Train for an epoch from 0 and return its entry in the curve."""
        self.model.train()
        order = self.learned[self.recipe.order(len(self.learned), epoch)]
        view, losses = self.recipe.view(epoch), []
        for number, (images, index) in enumerate(self.images.batches(order, self.step_images)):
            step = epoch * self.steps_per_epoch + number
            crops = view.apply(send(images, self.device), index.tolist())
            labels = self.labels[send(index, self.device)]
            losses.append(self._train_step(self.transform.normalise(crops), labels, step))
            if step % _CHECK_STEPS == 0:
                self._check(losses, epoch)
            report(step)
        self._check(losses, epoch)
        logits, measured = self.predict(self.images, self.held_out)
        right = logits.argmax(axis=1) == self.dataset_labels[measured]
        return {"train_loss": float(torch.stack(losses).mean()), "held_out_accuracy": float(right.mean())}

    def _train_step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        # Dropped paths draw from the global generator, which has no place in a checkpoint.
        torch.manual_seed(derive_seed(self.recipe.seed, step, "dropped paths"))
        targets = F.one_hot(labels, self.classes).float()
        images, targets = self.recipe.mix(images, targets, step=step)
        loss = self.recipe.loss(self.model(images), targets)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * self.recipe.rate(step, steps_per_epoch=self.steps_per_epoch)
        self.optimizer.step()
        return loss.detach()

    def _check(self, losses: list[Tensor], epoch: int) -> None:
        if not losses:
            raise DataError("no train image can be read; mend them, or choose another dataset")
        if not bool(torch.stack(losses).isfinite().all()):
            raise TrainingError(
                f"the loss is not finite in epoch {epoch + 1}; the checkpoint of the epoch before stays; "
                f"begin again with a lower --lr (it was {self.recipe.lr:g}) or --precision fp32"
            )

    @torch.no_grad()
    def predict(self, images: TrainingImages, order: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return logits `[N, C]` and indices `[N]` of those images in `order` that can be read."""
        self.model.eval()
        logits = [torch.empty(0, self.classes, device=self.device)]
        seen = [torch.empty(0, dtype=torch.int64)]
        for batch, index in images.batches(order, self.recipe.batch_size):
            logits.append(self.model(self.transform.normalise(send(batch, self.device))).float())
            seen.append(index)
        return torch.cat(logits).cpu().numpy(), torch.cat(seen).numpy()

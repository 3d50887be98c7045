"""`fit`: train any learner on tensors, in the loop that trains images: checkpoints, resume, alarms, measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.config import build
from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.encoders.kinds.run import FORMAT_VERSION
from hjepa_eval.encoders.protocol import hash_tensors
from hjepa_eval.errors import ConfigError, TrainingError
from hjepa_eval.features.fingerprint import canonical_json, parse_json
from hjepa_eval.results.provenance import package_versions
from hjepa_pretrain.config.settings import DiagnosticsSettings, TrainSettings
from hjepa_pretrain.data.batches import BatchOrder, split_images
from hjepa_pretrain.diagnostics.levels import LevelFeatures, diagnose
from hjepa_pretrain.diagnostics.measuring import Work
from hjepa_pretrain.diagnostics.progress import Progress
from hjepa_pretrain.diagnostics.spectrum import gram_eigenvalues, rankme_of, token_variance
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.jepa.learner import Learner
from hjepa_pretrain.jepa.saved import describe
from hjepa_pretrain.jepa.states import batch_of, leaves, map_state, take
from hjepa_pretrain.loop import run_task
from hjepa_pretrain.runs.files import Summary
from hjepa_pretrain.tasks import Say, Task
from hjepa_pretrain.training.steps import Steps

_BATCH = 256
# Settings of image runs that nothing reads here.
_OF_IMAGES = (
    "checkpoint_activations",
    "compile",
    "level_weights",
    "loss",
    "loss_beta",
    "parallel",
    "predicted_share",
    "whole_image",
)


def fit(
    model: Learner,
    examples: Any,
    *,
    run_dir: str | Path,
    labels: Tensor | None = None,
    train: Mapping[str, Any] | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    name: str = "tensors",
    encoder: Mapping[str, Any] | None = None,
    transform: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Train `model` on `examples`, write the run to `run_dir`, and return its summary.

    At the end the model has the weights of the last step; `encoder.safetensors` has those of the best measurement.

    Args:
        model: a learner such as `JEPA`; it is trained as it is, its first weights are not drawn anew.
        examples: what `model.training_loss` takes: for `JEPA` the states `(state_t, state_t1)`, tensors of N examples.
        run_dir: where the run goes.
        labels: int64 `[N]`, for diagnostics alone.
        train: settings of the section `train`, such as `{"epochs": 10, "batch_size": 64}`.
        diagnostics: settings of the section `diagnostics`.
        name: of the data, in the run's files.
        encoder: what `config.json` says of the encoder; the model's own configuration when not given.
        transform: what it says of the preparation of images.
        settings: what it says of all settings, JSON values, which a resumed run must have again; `train` and
            `diagnostics` when not given.
        resume: go on from the newest whole checkpoint.
        progress: told after every step.
        say: told what the user should know.

    Raises:
        ConfigError: settings do not fit, or nothing here reads them.
        TrainingError: examples do not fit, or as `hjepa_pretrain.loop.pretrain`.
    """
    optimised = build(TrainSettings, dict(train or {}), "train")
    measured = build(DiagnosticsSettings, dict(diagnostics or {}), "diagnostics")
    _check(optimised, examples, labels)
    task = LearnerTask(model, examples, labels, optimised, measured, name=name)
    task.describe(encoder=encoder, transform=transform, settings=settings)
    before = model.training
    try:
        return run_task(
            lambda: task, run_dir=Path(run_dir), resume=resume, progress=progress, say=say, device=optimised.device
        )
    finally:
        model.train(before)


def _check(settings: TrainSettings, examples: Any, labels: Tensor | None) -> None:
    default = TrainSettings()
    if unread := [f"train.{key}" for key in _OF_IMAGES if getattr(settings, key) != getattr(default, key)]:
        raise ConfigError(f"{', '.join(unread)} belong to image runs, and nothing reads them here; leave them out")
    if (settings.epochs is None) == (settings.minutes is None):
        raise ConfigError("give train.epochs or train.minutes, one of them")
    if settings.batch_size % settings.accumulate:
        raise ConfigError(
            f"train.accumulate {settings.accumulate} does not divide train.batch_size {settings.batch_size}"
        )
    count = batch_of(examples, "examples")
    if labels is not None and len(labels) != count:
        raise TrainingError(f"{count} examples and {len(labels)} labels; give one label per example")
    for path, tensor in leaves(examples):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            row = int((~tensor.isfinite().flatten(1).all(dim=1)).nonzero()[0]) if tensor.ndim > 1 else 0
            raise TrainingError(
                f"examples{path} hold a value that is not finite (NaN or infinite), first in row {row}; fill or drop it"
            )


class LearnerSteps(Steps):
    """The steps of a learner on tensors that lie on the device."""

    model: Learner

    def __init__(
        self, model: Learner, examples: Any, train: TrainSettings, *, order: BatchOrder, ranks: ProcessGroup
    ) -> None:
        """Move everything to the device of `ranks`."""
        self.examples = map_state(lambda tensor: tensor.to(ranks.device), examples)
        self.saved_names = model.saved_names
        super().__init__(model.to(ranks.device).train(), train, order=order, device=ranks.device, ranks=ranks)

    def batch(self, step: int) -> list[Any]:
        """Return the examples of `step`, in parts."""
        return [take(self.examples, part) for part in self.order.indices(step).chunk(self.train.accumulate)]

    def loss_of(self, part: Any, *, number: int, shared: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a batch, and its terms."""
        generator = seeded_generator(self.train.seed, number, "examples")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model.training_loss(part, generator=generator)

    def momentum(self, step: int, progress: float) -> float | None:
        """Return the momentum at `progress`; None without a moving average."""
        return None if self.model.ema is None else self.model.ema.momentum(step, progress=progress)

    def follow(self, step: int, progress: float) -> None:
        """Move the moving average."""
        momentum = self.momentum(step, progress)
        if momentum is not None:
            self.model.update_target(momentum)

    def watched(self) -> dict[str, nn.Module]:
        """Return the learner's parts."""
        return self.model.watched()


class LearnerTask(Task):
    """A learner on tensors."""

    def __init__(
        self,
        model: Learner,
        examples: Any,
        labels: Tensor | None,
        train: TrainSettings,
        diagnostics: DiagnosticsSettings,
        *,
        name: str,
    ) -> None:
        """Split the examples into those that are trained on and those held out."""
        self.model, self.examples, self.name = model, examples, name
        self.train, self.diagnostics = train, diagnostics
        self.encoder = type(model.watched()["encoder"]).__name__
        count = batch_of(examples, "examples")
        self.labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels.cpu().long()
        split = split_images(count, diagnostics.held_out if diagnostics.bank else 0.0)
        few = torch.linspace(0, len(split.trained) - 1, min(diagnostics.bank, len(split.trained)))
        self.trained, self.bank, self.held_out = split.trained, split.trained[few.long()], split.held_out
        self.widths = [level.shape[-1] for level in self._levels(split.trained[:1])]

    def describe(
        self,
        *,
        encoder: Mapping[str, Any] | None,
        transform: Mapping[str, Any] | None,
        settings: Mapping[str, Any] | None,
    ) -> None:
        """Set what `config.json` says."""
        tensors = {path or "examples": tensor for path, tensor in leaves(self.examples)}
        dataset = {"name": self.name, "fingerprint": hash_tensors(tensors), "num_images": len(self.labels)}
        parts = {"train": self.train, "diagnostics": self.diagnostics}
        said = {name: part.model_dump(mode="json") for name, part in parts.items()}
        self.config = {
            "format_version": FORMAT_VERSION,
            "encoder": dict(encoder) if encoder is not None else {"learner": describe(self.model)},
            "transform": parse_json(canonical_json(dict(transform or {}))),
            "settings": said if settings is None else dict(settings),
            "dataset": dataset,
            "versions": package_versions(),
        }

    def steps(self, ranks: ProcessGroup, *, compiled: bool | None, say: Say) -> LearnerSteps:
        """Build the steps."""
        train = self.train
        order = BatchOrder(
            self.trained, train.batch_size, seed=train.seed, rank=ranks.rank, ranks=ranks.count, parts=train.accumulate
        )
        return LearnerSteps(self.model, self.examples, train, order=order, ranks=ranks)

    @torch.no_grad()
    def _levels(self, positions: Tensor) -> list[Tensor]:
        """Return the levels of examples, fp32 on the CPU, in evaluation mode; modes stay what they were."""
        before, parts = self.model.training, []
        self.model.eval()
        for part in torch.split(positions, _BATCH):
            batch = map_state(lambda tensor: tensor.to(self.model.device), take(self.examples, part))
            parts.append([level.float().cpu() for level in self.model.levels(batch)])
        self.model.train(before)
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _features(self, positions: Tensor) -> list[LevelFeatures]:
        levels = self._levels(positions)
        means = [level.mean(dim=1) for level in levels]
        return [LevelFeatures(mean, mean, token_variance(level)) for mean, level in zip(means, levels, strict=True)]

    def untrained(self, steps: LearnerSteps) -> list[float]:
        """Return the RankMe of every level before the first step."""
        return [rankme_of(gram_eigenvalues(level.features, centred=True)) for level in self._features(self.bank)]

    def measure(self, steps: LearnerSteps, progress: float) -> dict[str, Any]:
        """Return the diagnosis of the levels; every rank has the same weights and measures for itself."""
        held_out = self._features(self.held_out) if len(self.held_out) else None
        return diagnose(
            self._features(self.bank),
            self.labels[self.bank],
            held_out=held_out,
            held_out_labels=self.labels[self.held_out],
        )

    def measure_work(self, work: Work, steps: LearnerSteps, progress: float) -> None:
        """Count nothing: what a step takes is the learner's own."""

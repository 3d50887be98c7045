"""What a run trains and measures: `Task` is all of it that the loop does not know; `ImageTask` is H-JEPA on images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import DiagnosticsSettings, PretrainSettings, TrainSettings
from hjepa_pretrain.data.training_data import TrainingData, load_training_data, typical_size
from hjepa_pretrain.diagnostics.measuring import Work, measure_levels, untrained_ranks
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.runs.files import run_config, run_transform
from hjepa_pretrain.training.step import resolve_compile
from hjepa_pretrain.training.steps import Steps
from hjepa_pretrain.training.trainer import Trainer

Say = Callable[[str], None]


class Task(ABC):
    """What a run trains, on what, and how it is measured.

    Attributes:
        train: optimisation, budget, and what is written when.
        diagnostics: what is measured on the way, and what stops the run.
        config: content of the run's `config.json`; `settings`, `dataset` and `encoder` of it may never change.
        widths: of the levels that are measured.
        encoder: what the summary calls the encoder.
        image_size: side of what it reads in pixels; 0 where there are no images.
    """

    train: TrainSettings
    diagnostics: DiagnosticsSettings
    config: dict[str, Any]
    widths: Sequence[int]
    encoder: str
    image_size: int = 0

    @abstractmethod
    def steps(self, ranks: ProcessGroup, *, compiled: bool | None, say: Say) -> Steps:
        """Read the data and return the steps as they are before the first one.

        Args:
            ranks: that share the run.
            compiled: whether steps are compiled; None for a run that begins, which may choose.
            say: told what the user should know of a run that begins.

        Raises:
            HjepaError: data or parts do not fit.
        """

    @abstractmethod
    def untrained(self, steps: Any) -> list[float]:
        """Return the RankMe of every level before the first step; all ranks must ask."""

    @abstractmethod
    def measure(self, steps: Any, progress: float) -> dict[str, Any]:
        """Return the diagnosis of the levels now, see `diagnostics.levels.diagnose`; all ranks must ask."""

    @abstractmethod
    def measure_work(self, work: Work, steps: Any, progress: float) -> None:
        """Let `work` know what a step takes, where that can be counted; the leader asks."""


class ImageTask(Task):
    """H-JEPA on images."""

    def __init__(self, settings: PretrainSettings, dataset: ImageDataset) -> None:
        """Prepare; no image is read."""
        self.settings, self.dataset = settings, dataset
        self.train, self.diagnostics = settings.train, settings.diagnostics
        geometry = resolve_geometry(settings)
        self.transform = run_transform(settings, geometry)
        count = min(settings.data.max_samples or len(dataset), len(dataset))
        self.config = run_config(settings, geometry, self.transform, dataset, count)
        self.widths, self.encoder = geometry.widths, settings.model.encoder_type
        self.image_size = self.transform.size

    def steps(self, ranks: ProcessGroup, *, compiled: bool | None, say: Say) -> Trainer:
        """Read the data and build the trainer."""
        data = load_training_data(
            self.settings, self.dataset, self.transform, device=ranks.device, rank=ranks.rank, ranks=ranks.count
        )
        if compiled is None:
            compiled = ranks.share(self._compiled(data, ranks.device, say))
            self._say_what_is_read(ranks, say)
        return Trainer(self.settings, data, self.transform, device=ranks.device, compiled=compiled, ranks=ranks)

    def _compiled(self, data: TrainingData, device: torch.device, say: Say) -> bool:
        epochs = self.train.epochs
        steps = None if epochs is None else round(epochs * data.order.steps_per_epoch)
        return resolve_compile(self.train, device, total_steps=steps, say=say)

    def _say_what_is_read(self, ranks: ProcessGroup, say: Say) -> None:
        """Say what a user would not look for: images that lose most of their pixels, labels that tell nothing."""
        size = max(self.transform.size, self.settings.data.stored_size or 0)
        height, width = typical_size(self.dataset)
        if min(height, width) >= _FAR_LARGER * size:
            say(
                f"images of about {width}x{height} pixels are read at {size}x{size}; to see more of them choose "
                "another preset with --config, or set model.encoder_type and data.image_size"
            )
        if self.train.parallel == "fsdp" and ranks.count == 1:
            say("train.parallel fsdp shards nothing in a single process; for several start them with torchrun")
        if self.diagnostics.bank and len(set(self.dataset.labels.tolist())) < 2:
            say(
                f"the images have no {'two ' if self.dataset.labelled else ''}classes, so no kNN is measured and no "
                "best checkpoint chosen: the run ends with the weights of its last step"
            )

    def untrained(self, steps: Trainer) -> list[float]:
        """Return the RankMe of every level before the first step."""
        return untrained_ranks(steps)

    def measure(self, steps: Trainer, progress: float) -> dict[str, Any]:
        """Return the diagnosis of both encoders' levels, and what the masks cover."""
        return measure_levels(steps, progress=progress)

    def measure_work(self, work: Work, steps: Trainer, progress: float) -> None:
        """Count a step's arithmetic and measure the device's peak."""
        work.measure(steps, progress=progress)


# Images with so many times the side of what is read are said to be far larger.
_FAR_LARGER = 4

"""A pretraining run: from settings and a dataset to a run directory, which can be left and gone on with at any time."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import TrainingError, first_few
from hjepa_eval.features.fingerprint import differences, hash_json
from hjepa_pretrain import memory as memory  # not used here: whoever imports the loop has all of pretraining
from hjepa_pretrain.batches import load_images
from hjepa_pretrain.checkpoint import Checkpoint, folder, newest_checkpoint, save_checkpoint
from hjepa_pretrain.config import PretrainSettings
from hjepa_pretrain.geometry import resolve_geometry
from hjepa_pretrain.interrupts import interrupt_between_steps
from hjepa_pretrain.run_files import (
    Summary,
    read_summary,
    run_config,
    run_transform,
    trim_metrics,
    write_config,
    write_finished,
)
from hjepa_pretrain.trainer import Trainer

# What may change between two sessions of one run, because it does not change what is computed.
_FREE = ("train.log_interval", "train.checkpoint_interval", "train.keep_checkpoints", "train.device", "data.root")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: steps done.
        fraction: share of the run that is done.
        losses: mean loss of each level over the last log interval; empty before the first.
        images_per_second: in this session.
        eta_seconds: until the end, at this speed; None before the first step.
    """

    step: int
    fraction: float
    losses: tuple[float, ...]
    images_per_second: float
    eta_seconds: float | None


def pretrain(
    settings: PretrainSettings,
    dataset: ImageDataset,
    *,
    run_dir: Path,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Pretrain on the train split `dataset`, write the run to `run_dir`, and return its summary.

    Args:
        settings: what is computed.
        dataset: images; labels are used by diagnostics alone.
        run_dir: `config.json`, `metrics.jsonl` and `checkpoints/` from the start, `encoder.safetensors` and
            `summary.json` at the end.
        resume: go on from the newest whole checkpoint.
        progress: told after every step.
        say: told in words about what the user should know, such as a damaged checkpoint; stderr by default.

    Raises:
        TrainingError: a loss is not finite, a level collapsed, or a resumed run has other settings or data.
        CheckpointError: there is nothing to resume.
        DataError: an image cannot be read, or there are too few or too many of them.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    return _Run(settings, dataset, run_dir, progress or (lambda _: None), say or _to_stderr).go(resume=resume)


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


class _Run:
    """The run that `pretrain` does: trainer, clock and files."""

    def __init__(
        self,
        settings: PretrainSettings,
        dataset: ImageDataset,
        run_dir: Path,
        progress: Callable[[Progress], None],
        say: Callable[[str], None],
    ) -> None:
        self.settings, self.dataset, self.run_dir = settings, dataset, run_dir
        self.report, self.say = progress, say
        self.geometry = resolve_geometry(settings)
        self.transform = run_transform(settings, self.geometry)
        count = min(settings.data.max_samples or len(dataset), len(dataset))
        self.config = run_config(settings, self.geometry, self.transform, dataset, count)
        self.seconds_before, self.steps_before, self.started = 0.0, 0, 0.0
        self.losses: dict[str, float] = {}
        self.measures: dict[str, Any] = {}
        self.last_saved = "none yet"

    def go(self, *, resume: bool) -> Summary:
        """Train to the end and return the summary."""
        checkpoint = newest_checkpoint(self.run_dir, say=self.say) if resume else None
        if checkpoint is not None:
            self._check_same(checkpoint.config)
        elif (self.run_dir / "checkpoints").is_dir() or (self.run_dir / "summary.json").exists():
            raise TrainingError(f"{self.run_dir} holds a run already; resume it, or name another folder")
        if resume and (finished := read_summary(self.run_dir)) is not None:
            self.say(f"{self.run_dir} is finished already")
            return finished
        images = load_images(self.dataset, self.transform, max_samples=self.settings.data.max_samples)
        labels = torch.from_numpy(self.dataset.labels[: len(images)])
        with torch.random.fork_rng(devices=[]):
            self.trainer = Trainer(self.settings, images, labels, self.transform)
            if checkpoint is not None:
                self._restore(checkpoint)
            write_config(self.run_dir, self.config)
            return self._train()

    def _check_same(self, old: dict[str, Any]) -> None:
        """Check that a resumed run has the settings and data that it began with."""
        parts = ("settings", "dataset", "encoder")
        changed = differences({key: old.get(key) for key in parts}, {key: self.config[key] for key in parts})
        changed = [change for change in changed if not change.startswith(tuple(f"settings.{name}:" for name in _FREE))]
        if changed:
            raise TrainingError(
                f"{self.run_dir} began with other settings or data: {first_few(changed)}; go on with what it began "
                "with, or begin another run"
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        path = folder(self.run_dir, int(checkpoint.state["step"]))
        self.trainer.restore(checkpoint, source=str(path))
        self.seconds_before = float(checkpoint.state["seconds"])
        self.losses = dict(checkpoint.state["losses"])
        self.last_saved = path.name
        self.steps_before = self.trainer.step
        trim_metrics(self.run_dir / "metrics.jsonl", step=self.trainer.step)

    @property
    def seconds(self) -> float:
        """Seconds of training over all sessions."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Share of the run that is done."""
        if self.trainer.total_steps is not None:
            return min(self.trainer.step / self.trainer.total_steps, 1.0)
        return min(self.seconds / (60.0 * (self.settings.train.minutes or math.inf)), 1.0)

    def _train(self) -> Summary:
        trainer, train = self.trainer, self.settings.train
        self.started = time.monotonic()
        try:
            with interrupt_between_steps() as check:
                while (done := self.fraction) < 1.0:
                    trainer.train_step(done)
                    if trainer.step % train.log_interval == 0:
                        self._log(done)
                    if trainer.step % train.checkpoint_interval == 0:
                        self._save()
                    self.report(self._progress())
                    check()
        except KeyboardInterrupt:
            # In the middle of a step weights and moments may not belong together: then the last checkpoint stands.
            if not trainer.in_step and trainer.step > self.steps_before:
                self._save()
            raise
        return self._finish()

    def _progress(self) -> Progress:
        spent = max(time.monotonic() - self.started, 1e-9)
        steps = self.trainer.step - self.steps_before
        fraction = self.fraction
        if self.trainer.total_steps is None:
            eta = 60.0 * (self.settings.train.minutes or 0.0) - self.seconds
        else:
            eta = (self.trainer.total_steps - self.trainer.step) * spent / max(steps, 1)
        levels = [loss for name, loss in self.losses.items() if name.startswith("level_")]
        speed = steps * self.settings.train.batch_size / spent
        return Progress(self.trainer.step, fraction, tuple(levels), speed, max(eta, 0.0) if steps else None)

    def _log(self, done: float) -> None:
        """Append a line to `metrics.jsonl`."""
        self.losses = self.trainer.take_losses(last_good=self.last_saved)
        self.measures = self.trainer.measure()
        step = self.trainer.step - 1
        state = self._progress()
        line = {
            "step": self.trainer.step,
            "epoch": round(self.trainer.step / self.trainer.order.steps_per_epoch, 4),
            "losses": self.losses,
            "lr": self.trainer.rate(done),
            "momentum": self.trainer.model.ema.momentum(
                step, progress=done if self.trainer.total_steps is None else None
            ),
            **self.measures,
            "images_per_second": round(state.images_per_second, 1),
            "seconds": round(self.seconds, 2),
        }
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _checkpoint(self) -> Checkpoint:
        encoder, tensors = self.trainer.tensors()
        state = {
            "step": self.trainer.step,
            "seconds": self.seconds,
            "terms": self.trainer.terms,
            "losses": self.losses,
        }
        return Checkpoint(self.config, encoder, tensors, state)

    def _save(self) -> None:
        """Write a checkpoint, unless a loss since the last log was not finite."""
        if self.trainer.pending and not bool(torch.stack(self.trainer.pending).isfinite().all()):
            self.trainer.take_losses(last_good=self.last_saved)
        path = save_checkpoint(self.run_dir, self._checkpoint(), keep=self.settings.train.keep_checkpoints)
        self.last_saved = path.name

    def _finish(self) -> Summary:
        seconds, trainer = self.seconds, self.trainer
        if trainer.pending:
            self._log(1.0)
        self._save()
        summary = Summary(
            run=str(self.run_dir),
            steps=trainer.step,
            epochs=round(trainer.step / trainer.order.steps_per_epoch, 4),
            seconds=round(seconds, 2),
            images_per_second=round(trainer.step * self.settings.train.batch_size / max(seconds, 1e-9), 1),
            losses=self.losses,
            measures=self.measures,
            dataset=self.config["dataset"],
            settings_hash=hash_json(self.config["settings"]),
        )
        write_finished(self.run_dir, self._checkpoint(), summary)
        return summary

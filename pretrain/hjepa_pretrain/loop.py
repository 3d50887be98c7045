"""A pretraining run: from settings and a dataset to a run directory, which can be left and gone on with at any time.

Under torchrun or srun all ranks call `pretrain` with the same settings. They do the same steps: the leader's clock and
measurements count for all. The leader alone writes, reports and speaks; every rank reads the checkpoint to go on from.
With as many ranks as before, a run goes on bit for bit; with more or fewer of them the order of the images stays, but
draws are others, and sums are rounded otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.kinds.run import read_run_config
from hjepa_eval.errors import TrainingError
from hjepa_eval.features.claims import alone_in_run
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.machine.devices import float32_products, resolve_precision
from hjepa_eval.results.text import visible
from hjepa_pretrain.checks import check_settings
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.diagnostics.alarms import AlarmError, Alarms
from hjepa_pretrain.diagnostics.progress import Progress, RunStory
from hjepa_pretrain.distributed.processes import ProcessGroup, ranks_together
from hjepa_pretrain.runs.checkpoint import Checkpoint, best_or_last, folder, save_checkpoint
from hjepa_pretrain.runs.files import (
    Summary,
    metrics_size,
    read_summary,
    write_config,
    write_finished,
    write_not_finite,
)
from hjepa_pretrain.runs.logs import Logs, check_logs, open_logs
from hjepa_pretrain.runs.resuming import check_machine, check_same, machine, newest_for_all
from hjepa_pretrain.tasks import ImageTask, Task
from hjepa_pretrain.training.limits import Clock, interrupt_between_steps
from hjepa_pretrain.training.steps import NotFiniteError, Steps


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
        run_dir: that of the leader counts; `config.json`, `metrics.jsonl` and `checkpoints/` from the start,
            `encoder.safetensors` (that of the best checkpoint, by held-out kNN) and `summary.json` at the end.
        resume: go on from the newest whole checkpoint.
        progress: told after every step, by the leader.
        say: told by the leader in words about what the user should know, such as a damaged checkpoint; stderr by
            default.

    Raises:
        ConfigError: the settings do not fit together.
        TrainingError: a loss is not finite, an alarm fired, a resumed run has other settings or data, or another
            process is at work in `run_dir`.
        CheckpointError: there is nothing to resume.
        DataError: an image cannot be read, or there are too few or too many of them.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
        SystemExit: this is not the rank that tells the user why all of them stop (see `endings`).
    """
    check_settings(settings)
    return run_task(
        lambda: ImageTask(settings, dataset),
        run_dir=run_dir,
        resume=resume,
        progress=progress,
        say=say,
        device=settings.train.device,
    )


def run_task(
    make: Callable[[], Task],
    *,
    run_dir: Path,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    device: str | None = None,
) -> Summary:
    """Do the run of a task; arguments and errors are those of `pretrain`.

    Args:
        make: returns the task, once this process is among its ranks.
        run_dir: that of the leader counts.
        resume: go on from the newest whole checkpoint.
        progress: told after every step.
        say: told what the user should know.
        device: where steps are computed; found on the machine when not given.
    """
    with ranks_together(device or "auto") as ranks:
        run_dir = Path(ranks.share(str(run_dir)))
        tell = (say or _to_stderr) if ranks.leader else _nothing
        report = progress if progress is not None and ranks.leader else _nothing
        with alone_in_run(run_dir, new=not resume) if ranks.leader else nullcontext():
            return _Run(make(), run_dir, report, tell, ranks).go(resume=resume)


def _to_stderr(message: str) -> None:
    print(visible(message), file=sys.stderr)


def _nothing(_: object) -> None:
    """Say nothing."""


class _Run:
    """The run of a task: steps, clock and files."""

    steps: Steps
    clock: Clock
    logs: Logs

    def __init__(
        self,
        task: Task,
        run_dir: Path,
        progress: Callable[[Progress], None],
        say: Callable[[str], None],
        ranks: ProcessGroup,
    ) -> None:
        self.task, self.run_dir, self.ranks = task, run_dir, ranks
        self.train, self.diagnostics, self.config = task.train, task.diagnostics, task.config
        self.report, self.say = progress, say
        self.story = RunStory(Alarms(task.diagnostics, widths=task.widths))
        self.last_saved = "none yet"

    def go(self, *, resume: bool) -> Summary:
        """Train to the end and return the summary."""
        checkpoint = newest_for_all(self.run_dir, self.ranks, say=self.say) if resume else None
        if resume:
            old = read_run_config(self.run_dir) if checkpoint is None else checkpoint.config
            check_same(self.run_dir, old, self.config)
        elif (self.run_dir / "checkpoints").is_dir() or (self.run_dir / "summary.json").exists():
            raise TrainingError(f"{self.run_dir} holds a run already; resume it, or name another folder")
        if resume and (finished := self.ranks.share(read_summary(self.run_dir, say=self.say))) is not None:
            self.say(f"{self.run_dir} is finished already")
            return finished
        check_logs(self.diagnostics)
        device, precision = self.ranks.device, resolve_precision(self.train.precision, self.ranks.device)
        drawn_from = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=drawn_from), float32_products(precision):
            self._prepare(checkpoint)
            step, config = self.steps.step, self.config["settings"]
            self.logs = Logs([])
            self.ranks.wait_for_all()  # What others look for in the folder is not what the leader writes now.
            if self.ranks.leader:
                write_config(self.run_dir, self.config)
                logged = None if checkpoint is None else checkpoint.state.get("logged")
                self.logs = open_logs(self.run_dir, self.diagnostics, step=step, size=logged, config=config)
            try:
                return self._train()
            except NotFiniteError as error:
                path = write_not_finite(self.run_dir, error.to_json()) if self.ranks.leader else None
                raise TrainingError(f"{error}; all {len(error.images)} images: {self.ranks.share(path)}") from None
            finally:
                self.logs.close()

    def _prepare(self, checkpoint: Checkpoint | None) -> None:
        """Read the data and build the steps, as they were when the checkpoint was written."""
        # Compiled steps round differently: a run goes on as it began.
        compiled = None if checkpoint is None else bool(checkpoint.state["compiled"])
        self.steps = self.task.steps(self.ranks, compiled=compiled, say=self.say)
        self.clock = Clock(total_steps=self.steps.total_steps, minutes=self.train.minutes)
        if checkpoint is not None:
            self._restore(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        path, steps = folder(self.run_dir, int(checkpoint.state["step"])), self.steps
        for said in check_machine(checkpoint.state, precision=steps.precision, device=steps.device):
            self.say(said)
        self.steps.restore(checkpoint, source=str(path))
        self.clock.seconds_before, self.clock.steps_before = float(checkpoint.state["seconds"]), self.steps.step
        self.story.restore(checkpoint.state)
        before = int(checkpoint.state.get("ranks", 1))
        if before != self.ranks.count:
            self.say(f"the run goes on with {self.ranks.count} ranks instead of {before}: other draws from here on")
        self.last_saved = path.name
        total = "" if steps.total_steps is None else f" of {steps.total_steps:,}"
        self.say(f"going on after step {steps.step:,}{total}")

    def _train(self) -> Summary:
        steps, train = self.steps, self.train
        if steps.step == 0 and self.diagnostics.bank:
            self.story.alarms.begin(self.task.untrained(steps))
        self.clock.start()
        stop = False
        try:
            with interrupt_between_steps(alone=self.ranks.count == 1) as asked:
                done = self.ranks.agree(self.clock.fraction(steps.step))
                while done < 1.0 and not self.story.alarms.should_stop:
                    steps.train_step(done)
                    self._look(done)
                    if steps.step % train.checkpoint_interval == 0:
                        self._save()
                    fraction = self.clock.fraction(steps.step)
                    # The last state is reported once it is measured.
                    stop = fraction < 1.0 and self._report()
                    done, stop = self.ranks.meet(fraction, stop=stop or asked())
                    if stop:
                        raise KeyboardInterrupt
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{steps.device} has not enough memory for a step; raise train.accumulate, set "
                f"train.checkpoint_activations, or lower train.batch_size; last good checkpoint: {self.last_saved}"
            ) from None
        except KeyboardInterrupt:
            # In the middle of a step weights and moments may not belong together: then the last checkpoint stands. So
            # it does when one of several ranks stops by itself, since all of them take part in saving.
            together = stop or self.ranks.count == 1
            if together and not steps.in_step and steps.step > self.clock.steps_before:
                self._save()
            raise
        if self.story.alarms.should_stop:
            self.say(self.story.alarms.should_stop)
        return self._finish()

    def _report(self) -> bool:
        """Report progress, and tell whether Ctrl-C came meanwhile."""
        try:
            self.report(self.story.progress(self.steps, self.clock))
        except KeyboardInterrupt:
            return True
        return False

    def _look(self, done: float, *, last: bool = False) -> None:
        """Log, measure and heed the alarms when it is time to."""
        step = self.steps.step
        measuring = bool(self.diagnostics.bank) and (last or step % self.diagnostics.interval == 0)
        if self.story.measured_at == step or not (measuring or last or step % self.train.log_interval == 0):
            return
        if self.steps.pending or self.steps.averaged:
            self.story.losses = self.steps.take_losses(last_good=self.last_saved)
        if not measuring:
            self._log(done, measured=False)
            return
        with self.clock.stopped():
            self.story.diagnosis, self.story.measured_at = self.task.measure(self.steps, done), step
        if self.ranks.leader:
            self.task.measure_work(self.story.work, self.steps, done)
        self._log(done, measured=True)  # Before the alarms, so that what they saw stays to be looked at.
        reached = self.ranks.agree(self.clock.fraction(step))
        try:
            self.story.alarms.check(step, reached, self.story.losses, self.story.diagnosis)
        except AlarmError as alarm:
            self._save()
            raise AlarmError(
                f"{alarm}; the weights of this step stay: look at them with hjepa eval --model {self.run_dir}, or go "
                f"on with hjepa pretrain --resume {self.run_dir} and --set with another limit"
            ) from None
        for warning in self.story.alarms.warnings:
            self.say(warning)
        if self.story.alarms.improved:
            self._save()

    def _log(self, done: float, *, measured: bool) -> None:
        self.logs.write(self.story.line(self.steps, self.clock, done=done, measured=measured))

    def _checkpoint(self) -> Checkpoint:
        encoder, tensors = self.steps.tensors()
        state = {
            "step": self.steps.step,
            "seconds": self.clock.seconds,
            "terms": self.steps.terms,
            "compiled": self.steps.compiled,
            "precision": self.steps.precision,
            "device": self.steps.device.type,
            "ranks": self.ranks.count,
            **self.story.state(),
            "logged": metrics_size(self.run_dir),
            **machine(),
        }
        return Checkpoint(self.config, encoder, tensors, state)

    def _save(self) -> None:
        """Write a checkpoint of this step, unless there is one, or a loss since the last log was not finite."""
        name = folder(self.run_dir, self.steps.step).name
        if self.last_saved == name:
            return
        if not self.steps.all_finite():
            self.steps.take_losses(last_good=self.last_saved)
        checkpoint, keep = self._checkpoint(), self.train.keep_checkpoints
        if self.ranks.leader:
            save_checkpoint(self.run_dir, checkpoint, keep=keep, best=self.story.best_step)
        self.last_saved = name

    def _finish(self) -> Summary:
        seconds, steps = self.clock.seconds, self.steps
        self._look(1.0, last=True)
        self._save()
        self.report(self.story.progress(self.steps, self.clock))
        checkpoint, best = self._checkpoint(), self.story.alarms.best_so_far
        if self.ranks.leader:
            checkpoint = best_or_last(self.run_dir, checkpoint, best=self.story.best_step, say=self.say)
            if best is not None and checkpoint.state["step"] != best["step"]:
                best = None  # Its weights are gone: the summary speaks of those that are there.
        summary = Summary(
            run=str(self.run_dir),
            steps=steps.step,
            epochs=steps.epoch,
            seconds=round(seconds, 2),
            images_per_second=round(steps.step * self.train.batch_size / max(seconds, 1e-9), 1),
            losses=self.story.losses,
            measures=self.story.diagnosis,
            best=best,
            dataset=self.config["dataset"],
            settings_hash=hash_json(self.config["settings"]),
            encoder=self.task.encoder,
            image_size=self.task.image_size,
        )
        if self.ranks.leader:
            write_finished(self.run_dir, checkpoint, summary, config=self.config)
        self.ranks.wait_for_all()  # The run is finished on no rank before its files are.
        return self.ranks.share(summary)

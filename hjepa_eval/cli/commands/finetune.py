"""`hjepa finetune`: train an encoder on labels, from one level."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.console import print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.errors import CheckpointError, ConfigError, EncoderError, TrainingError
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.settings import FinetuneSettings

if TYPE_CHECKING:
    from hjepa_eval.datasets.protocol import ImageDataset
    from hjepa_eval.encoders import Encoder
    from hjepa_eval.evaluation.measure import Measured
    from hjepa_eval.finetune.loop import Finetuned
    from hjepa_eval.finetune.recipe import Recipe

OPTIONS = "finetune.json"
HELD_OUT = 0.1
_SESSION = {"as_json", "quiet", "predictions", "run", "resume", "download"}
# What may differ between two sessions of one run, because it does not change what is computed.
_FREE = _SESSION | {"root", "device", "num_workers", "cache_dir", "out"}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "finetune", FinetuneSettings)
    def finetune(settings: FinetuneSettings) -> None:
        """Train encoder and head on labels, from one level.

        AdamW with layer-wise learning rates; random crops and flips. A tenth of train is measured after every epoch;
        the encoder of the last epoch is tested, once.
        """
        from hjepa_eval.report.formats.named import FORMATS
        from hjepa_eval.results.files import check_folder

        talk = Stderr(quiet=settings.quiet)
        settings = _with_its_own(settings) if settings.resume else settings
        check_folder(settings.out)
        measured, again = run(settings, talk)
        written = measured.write(settings.out, predictions=settings.predictions)
        if settings.as_json:
            print_json([measured.record.model_dump(mode="json")])
        else:
            print(FORMATS["table"]([measured.record]), end="")
        talk.note(f"written: {written}")
        if again is not None:
            talk.note(f"next, the new encoder level by level: hjepa eval --model {shlex.quote(again)}")


def _with_its_own(settings: FinetuneSettings) -> FinetuneSettings:
    """Return the settings with which a run goes on: its own, and what this session may choose.

    Raises:
        CheckpointError: the folder holds no fine-tuning.
        TrainingError: a setting was given that is not the run's own.
    """
    from hjepa_eval.evaluation.models.given import resolve
    from hjepa_eval.features.fingerprint import differences, parse_json

    if settings.run is not None:
        raise ConfigError("--run begins a run and --resume goes on with one; give one of them")
    path = Path(str(settings.resume)) / OPTIONS
    try:
        own = FinetuneSettings(**parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{settings.resume} holds no fine-tuning to go on with (no whole {OPTIONS})") from None
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    asked = resolve(own.model_copy(update=given))
    before, now = (each.model_dump(mode="json", exclude=_FREE) for each in (own, asked))
    changed = differences(before, now)
    if changed:
        raise TrainingError(f"{settings.resume} began with other settings: {', '.join(changed)}; leave them out")
    return asked


def run(settings: FinetuneSettings, talk: Talk) -> tuple[Measured, str | None]:
    """Fine-tune and return the record with the outcomes, and the name under which the new encoder can be loaded."""
    from hjepa_eval.evaluation.features import choose_levels
    from hjepa_eval.evaluation.measure import Measured
    from hjepa_eval.evaluation.models.finetuning import level_result, make_record, outcomes_of
    from hjepa_eval.evaluation.models.given import SPLITS, load_split, resolve
    from hjepa_eval.features.claims import alone_in_run
    from hjepa_eval.finetune.classifier import write_encoder
    from hjepa_eval.results.records import ModelInfo

    resolved = resolve(settings)
    if settings.model is None:
        talk.note(f"--model {resolved.model}, the newest finished run")
    encoder = _trainable(resolved)
    levels = choose_levels(encoder, settings.level or (encoder.levels[-1].index,))
    if len(levels) > 1:
        raise ConfigError(f"fine-tuning reads one level, found {', '.join(map(str, levels))}; give one --level")
    recipe = _recipe(resolved)
    splits = {split: load_split(resolved, split) for split in SPLITS}
    identity = encoder.identity()
    model = ModelInfo(name=encoder.name, weights=identity["weights"], identity=identity)
    run_dir = _folder(resolved, splits["train"].name)
    with alone_in_run(run_dir, new=resolved.resume is None):
        _begin(resolved, run_dir)
        started = time.perf_counter()
        found = _train(encoder, splits, recipe, levels[0], resolved, run_dir, talk)
        again = write_encoder(run_dir, encoder)
        seconds = {"finetune": time.perf_counter() - started}
    level = level_result(encoder, levels[0], found, recipe=recipe, readout=resolved.readout, run_dir=run_dir)
    record = make_record(model, splits, found, level=level, recipe=recipe, settings=resolved, seconds=seconds)
    return Measured(record, outcomes_of(found, levels[0])), again


def _trainable(settings: FinetuneSettings) -> Encoder:
    """Return the encoder that resolved settings ask for.

    Raises:
        EncoderError: it has no weights; nothing has been fitted or written yet.
    """
    from hjepa_eval.encoders import load_encoder

    problem = EncoderError(
        f"{settings.model} has no weights to train; fine-tune an encoder with weights, or probe it with hjepa linear"
    )

    def refuse() -> ImageDataset:
        raise problem  # What is fitted on images, as kmeans, holds no weights.

    model = str(settings.model)
    encoder = load_encoder(model, seed=settings.seed, download=settings.download, train_images=refuse)
    if next(encoder.parameters(), None) is None:
        raise problem
    return encoder


def _recipe(settings: FinetuneSettings) -> Recipe:
    from hjepa_eval.finetune.recipe import Recipe

    names = ("epochs", "batch_size", "lr", "weight_decay", "layer_decay", "warmup_epochs")
    more = ("label_smoothing", "mixup", "crop_scale", "seed")
    return Recipe(**{name: getattr(settings, name) for name in (*names, *more)}, flip=not settings.no_flip)


def _folder(settings: FinetuneSettings, dataset: str) -> Path:
    """Return the folder of the run that is gone on with, or begun."""
    name = f"finetune-{dataset.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    return settings.resume or settings.run or Path("runs") / name


def _begin(settings: FinetuneSettings, run_dir: Path) -> None:
    """Write the resolved options into the folder of a new run.

    Raises:
        ConfigError: the folder holds a run.
        CheckpointError: it cannot be written.
    """
    from hjepa_eval.features.fingerprint import write_atomically

    if settings.resume is not None:
        return
    if (run_dir / OPTIONS).exists() or (run_dir / "config.json").exists():
        raise ConfigError(f"{run_dir} holds a run; go on with --resume {run_dir}, or name another --run")
    options = settings.model_dump(mode="json", exclude=_SESSION)
    try:
        write_atomically(run_dir / OPTIONS, (json.dumps(options, indent=1) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"cannot write into {run_dir}: {error.strerror}; choose another folder with --run"
        ) from None


def _train(
    encoder: Encoder,
    splits: dict[str, ImageDataset],
    recipe: Recipe,
    level: int,
    settings: FinetuneSettings,
    run_dir: Path,
    talk: Talk,
) -> Finetuned:
    from hjepa_eval.finetune.loop import Running, finetune
    from hjepa_eval.machine.devices import resolve_device
    from hjepa_eval.probes.holdout import stratified_holdout

    counts = {split: min(settings.max_samples or len(data), len(data)) for split, data in splits.items()}
    _, held_out = stratified_holdout(splits["train"].labels[: counts["train"]], fraction=HELD_OUT, seed=settings.seed)
    talk.note(f"fine-tuning on {counts['train'] - len(held_out):,} images of {settings.dataset}, into {run_dir}")
    skip = settings.on_bad_image == "skip"
    try:
        with talk.progress(f"finetune {encoder.name}", "steps") as report:
            return finetune(
                encoder,
                splits,
                recipe=recipe,
                level=level,
                readout=settings.readout,
                held_out=held_out,
                counts=counts,
                running=Running(resolve_device(settings.device), settings.precision, settings.num_workers or 1, skip),
                run_dir=run_dir,
                resume=settings.resume is not None,
                progress=report,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished epochs stay; go on with: hjepa finetune --resume {run_dir}") from None

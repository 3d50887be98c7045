"""The result record of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hjepa_eval.datasets.overlap import count_shared, shared_note
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.readouts import get_readout
from hjepa_eval.evaluation.findings import make_score
from hjepa_eval.evaluation.settings import FinetuneSettings
from hjepa_eval.finetune.loop import Finetuned
from hjepa_eval.finetune.recipe import Recipe
from hjepa_eval.metrics.accuracy import accuracy, topk_accuracy
from hjepa_eval.results.outcomes import SampleOutcomes
from hjepa_eval.results.provenance import make_provenance
from hjepa_eval.results.records import DatasetInfo, Extracted, LevelResult, ModelInfo, Record


def level_result(
    encoder: Encoder, index: int, found: Finetuned, *, recipe: Recipe, readout: str, run_dir: Path
) -> LevelResult:
    """Return what the fine-tuning from level `index` found."""
    level = next(level for level in encoder.levels if level.index == index)
    top1 = accuracy(found.logits.argmax(axis=1), found.labels)
    top5 = topk_accuracy(found.logits, found.labels)
    return LevelResult(
        level=level.index,
        name=level.name,
        width=get_readout(readout).width(level),
        tokens=level.tokens,
        scores=(make_score("top1", top1, headline=True), make_score("top5", top5)),
        chosen={"curve": list(found.curve), "weights": found.weights, "run": str(run_dir)},
        notes=_notes(found, recipe),
    )


def outcomes_of(found: Finetuned, level: int) -> SampleOutcomes:
    """Return the outcome of every test image, as probes write it."""
    guess = found.logits.argmax(axis=1)
    return SampleOutcomes(found.index, found.labels, {(level, "top1"): guess == found.labels}, {(level, "top1"): guess})


def _notes(found: Finetuned, recipe: Recipe) -> tuple[str, ...]:
    """Say how it was trained, what was held out, and when test was touched."""
    low, high = recipe.crop_scale
    changes = f"crops of {low:g} to {high:g} of the resized image" + (", flips" if recipe.flip else "")
    changes += f", mixup {recipe.mixup:g}" if recipe.mixup else ""
    note = (
        f"{recipe.epochs} epochs of {found.trained_images:,} train images with {changes}; the curve is of "
        f"{found.held_out_images:,} held-out train images; test was touched once, after the last epoch"
    )
    layers = f"the order of the encoder's layers is unknown: all learn at {recipe.layer_decay:g} of the head's rate"
    return (note, layers) if found.one_layer else (note,)


def make_record(
    model: ModelInfo,
    splits: Mapping[str, ImageDataset],
    found: Finetuned,
    *,
    level: LevelResult,
    recipe: Recipe,
    settings: FinetuneSettings,
    seconds: Mapping[str, float],
) -> Record:
    """Return the record; `model` is the encoder as it was before, so that its other probes share the table's rows."""
    train, test = splits["train"], splits["test"]
    used = found.trained_images + found.held_out_images
    return Record(
        probe="finetune",
        protocol="finetune",
        parameters=_parameters(found, recipe),
        model=model,
        dataset=DatasetInfo(
            name=train.name,
            train_fingerprint=train.fingerprint,
            test_fingerprint=test.fingerprint,
            num_classes=len(train.class_names),
            train_images=used - len(found.skipped["train"]),
            test_images=len(found.labels),
            skipped_images=sum(map(len, found.skipped.values())),
            shared_images=(shared := count_shared(train, test, most=settings.max_samples)),
            notes=(*dict.fromkeys(train.notes + test.notes), *shared_note(shared, len(found.labels))),
        ),
        extraction=Extracted(
            readout=settings.readout,
            precision=settings.precision,
            train_store="",
            test_store="",
            forward_images=recipe.epochs * used + len(found.labels),
        ),
        levels=(level,),
        provenance=make_provenance(
            seed=settings.seed,
            device=settings.device,
            settings=settings.model_dump(mode="json", by_alias=True),
            seconds=seconds,
        ),
    )


def _parameters(found: Finetuned, recipe: Recipe) -> dict[str, Any]:
    """Return every hyper-parameter, and what they come to."""
    return {
        **asdict(recipe),
        "warmup_epochs": recipe.warmup,
        "optimizer": "AdamW",
        "peak_rate": recipe.peak,
        "schedule": "linear warm-up, cosine per step to 0",
        "augmentation": recipe.view(0).identity()["augmentation"],
        "held_out_images": found.held_out_images,
        "tested": "once, after the last epoch",
    }

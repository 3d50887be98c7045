"""The files of a run's own directory: what evaluation reads (`config.json`, `encoder.safetensors`) and the summary."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.run import FORMAT_VERSION
from hjepa_eval.errors import CheckpointError
from hjepa_eval.features.fingerprint import hash_json, parse_json, write_atomically
from hjepa_eval.results.provenance import package_versions
from hjepa_pretrain.config.geometry import Geometry, encoder_arguments
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.runs.checkpoint import Checkpoint, tensor_bytes, to_json

WEIGHTS, SUMMARY = "encoder.safetensors", "summary.json"


@dataclass(frozen=True)
class Summary:
    """What a finished run comes to; `summary.json` holds it, and its presence means finished.

    Attributes:
        run: the run's directory.
        steps: optimiser steps done.
        epochs: passes over the data.
        seconds: of training, over all sessions.
        images_per_second: mean over the training.
        losses: mean of each term over the last log interval.
        measures: the last diagnosis; empty when nothing was measured.
        best: kNN, step and level of the best measurement, whose weights `encoder.safetensors` holds; None without one.
        dataset: name, fingerprint and number of images.
        settings_hash: sha256 of the resolved settings.
        encoder: as `model.encoder_type` has it; empty in summaries of older versions.
        image_size: side of what the encoder read, in pixels; 0 in summaries of older versions.
    """

    run: str
    steps: int
    epochs: float
    seconds: float
    images_per_second: float
    losses: dict[str, float]
    measures: dict[str, Any]
    best: dict[str, Any] | None
    dataset: dict[str, Any]
    settings_hash: str
    encoder: str = ""
    image_size: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def run_transform(settings: PretrainSettings, geometry: Geometry) -> Transform:
    """Return how evaluation must prepare images for the run's encoder."""
    data = settings.data
    size = geometry.image_size
    return Transform(size=size, resize=size, interpolation="bicubic", mean=data.mean, std=data.std)


def run_config(
    settings: PretrainSettings, geometry: Geometry, transform: Transform, dataset: ImageDataset, num_images: int
) -> dict[str, Any]:
    """Return the content of `config.json`; `hjepa_eval.encoders.run` reads it."""
    return {
        "format_version": FORMAT_VERSION,
        "encoder": {
            "stages" if geometry.maps else "vit": settings.model.encoder_type,
            "arguments": encoder_arguments(settings),
            "taps": list(geometry.taps),
        },
        "transform": json.loads(to_json(asdict(transform))),
        "settings": settings.model_dump(mode="json"),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint, "num_images": num_images},
        "versions": package_versions(),
    }


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Write `config.json`.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    _write(run_dir / "config.json", to_json(config))


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; make room, or name another --out") from None


def write_finished(run_dir: Path, checkpoint: Checkpoint, summary: Summary, *, config: dict[str, Any]) -> None:
    """Write the weights and, last of all, `summary.json` with the sha256 of them, of `config.json` and of itself.

    Args:
        run_dir: where `config` was written when the run began or went on.
        checkpoint: whose weights are taken.
        summary: of the run.
        config: content of `config.json`.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full; the checkpoints stay.
    """
    weights = tensor_bytes(checkpoint.encoder)
    _write(run_dir / WEIGHTS, weights)
    contents = {WEIGHTS: weights, "config.json": to_json(config)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    hashes[SUMMARY] = hash_json(json.loads(to_json(summary.to_json())))
    _write(run_dir / SUMMARY, to_json({**summary.to_json(), "sha256": hashes}))


def read_summary(run_dir: Path, *, say: Callable[[str], None]) -> Summary | None:
    """Return the summary of a finished run, or None; also where it is damaged, which `say` is told."""
    path = run_dir / SUMMARY
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
        whole = hash_json({name: value for name, value in content.items() if name != "sha256"})
        if content.get("sha256", {}).get(SUMMARY, whole) != whole:
            raise ValueError("edited")
        return Summary(**{field.name: content[field.name] for field in fields(Summary) if _is_told(field, content)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        say(f"{path} is damaged; the run's end is done again from its last checkpoint")
        return None


def _is_told(field: Field[Any], content: Mapping[str, Any]) -> bool:
    """Tell whether a summary must have a field, or has it."""
    return field.default is MISSING or field.name in content


def write_not_finite(run_dir: Path, found: Mapping[str, Any]) -> str:
    """Write what is known of a step that was not finite to `not_finite.json`, and return its path.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    path = run_dir / "not_finite.json"
    _write(path, to_json(found))
    return str(path)


def metrics_size(run_dir: Path) -> int:
    """Return the bytes of `metrics.jsonl` now."""
    path = run_dir / "metrics.jsonl"
    return path.stat().st_size if path.is_file() else 0


def trim_metrics(path: Path, *, step: int, size: int | None = None) -> None:
    """Remove from `metrics.jsonl` what came after a checkpoint: a resumed run writes it again.

    Args:
        path: of the file; nothing happens when there is none.
        step: of the checkpoint.
        size: bytes of the file when it was written; without it, or when the file is shorter now, lines up to `step`
            stay. Only the size tells a step's own line from that of the run's end after the same step.
    """
    if not path.is_file():
        return
    if size is not None and size <= path.stat().st_size:
        os.truncate(path, size)
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            whole = parse_json(line)["step"] <= step
        except (ValueError, KeyError):
            continue  # The last line of a run that was killed may be half a line.
        if whole:
            kept.append(line)
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

"""What a run's own files say about how its weights came to be, and its curve; what they do not say stays unsaid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.encoders.kinds.run import read_run_config
from hjepa_eval.features.fingerprint import parse_json


@dataclass(frozen=True)
class RunFacts:
    """How weights came to be.

    Attributes:
        dataset: name, fingerprint and number of images.
        settings: all of the run, nested.
        versions: of the programs, by name.
        steps: optimiser steps that the weights went through; None when no file says it.
        seconds: of the training, or until a checkpoint; None when no file says it.
        knn: per level, what the run's diagnostics measured at that step on the target encoder; empty: not measured.
    """

    dataset: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]
    steps: int | None
    seconds: float | None
    knn: tuple[float, ...]


def read_facts(folder: Path) -> RunFacts:
    """Return what the files in and around a folder with weights say.

    Args:
        folder: of `weights_folder`: a finished run or a checkpoint.

    Raises:
        CheckpointError: `config.json` cannot be read.
    """
    config = read_run_config(folder)
    state = _read(folder / "summary.json") or _read(folder / "state.json")
    last, seconds = state.get("steps", state.get("step")), state.get("seconds")
    # A finished run that measured its levels keeps the weights of the best measurement, not the last ones.
    steps = _mapping(state.get("best")).get("step", last)
    found: Any = _mapping(state.get("measures")).get("knn") if steps == last else None
    for log in (folder / "metrics.jsonl", folder.parent.parent / "metrics.jsonl"):
        found = found or _logged_knn(log, steps)
    whole = isinstance(found, list) and len(found) == len(config["encoder"]["taps"])
    return RunFacts(
        dataset=_mapping(config["dataset"]),
        settings=_mapping(config.get("settings")),
        versions=_mapping(config.get("versions")),
        steps=steps if isinstance(steps, int) else None,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        knn=tuple(float(value) for value in found) if whole and all(map(_is_number, found)) else (),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(path: Path) -> dict[str, Any]:
    try:
        return _mapping(parse_json(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def _logged_knn(path: Path, step: int | None) -> Any:
    """Return what `metrics.jsonl` says of exactly that step: other steps had other weights."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            found = parse_json(line)
        except ValueError:
            continue  # The last line of a run that goes on may be half a line.
        if isinstance(found, dict) and found.get("step") == step and "knn" in found:
            return found["knn"]
    return None


MOST_ROWS = 400
# What only a measurement of the features has.
_MEASURED = ("knn", "rankme", "std")


def read_metrics(run: Path, *, most: int = MOST_ROWS) -> tuple[dict[str, Any], ...]:
    """Return at most `most` rows of a run's `metrics.jsonl`, of a checkpoint's run those up to it; none without a log.

    Numbers that are not finite become None. Rows are left out evenly and never averaged: those with measurements of the
    features stay before others, the last one always.

    Raises:
        CheckpointError: the run's `config.json` cannot be read.
    """
    rows = _read_rows(run / "metrics.jsonl")
    if not rows and run.parent.name == "checkpoints":
        last = read_facts(run).steps
        rows = [row for row in _read_rows(run.parent.parent / "metrics.jsonl") if last is None or row["step"] <= last]
    return tuple(thin(rows, most=most))


def thin(rows: Sequence[dict[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """Return at most `most` of the rows, in their order."""
    measured = [
        place for place, row in enumerate(rows) if place == len(rows) - 1 or not row.keys().isdisjoint(_MEASURED)
    ]
    others = sorted(set(range(len(rows))) - set(measured))
    kept = _evenly(measured, most)
    return [rows[place] for place in sorted([*kept, *_evenly(others, most - len(kept))])]


def _evenly(places: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the places, evenly spaced, the last one among them."""
    if len(places) <= most:
        return list(places)
    return [places[place] for place in np.linspace(len(places) - 1, 0, most).round().astype(int)] if most > 0 else []


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rows = []
    for line in lines:
        try:
            row = parse_json(line, parse_float=_finite, parse_constant=_finite)
        except ValueError:
            continue  # The last line of a run that goes on may be half a line.
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None

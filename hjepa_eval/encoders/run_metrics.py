"""The curve of a pretraining run: rows of its `metrics.jsonl`, few enough to be drawn, each as it was logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.encoders.run_facts import read_facts
from hjepa_eval.features.fingerprint import parse_json

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
    rows = _read(run / "metrics.jsonl")
    if not rows and run.parent.name == "checkpoints":
        last = read_facts(run).steps
        rows = [row for row in _read(run.parent.parent / "metrics.jsonl") if last is None or row["step"] <= last]
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


def _read(path: Path) -> list[dict[str, Any]]:
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

"""What a run's own files say about how its weights came to be; what they do not say stays unsaid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa_eval.encoders.run import read_run_config


@dataclass(frozen=True)
class RunFacts:
    """How weights came to be.

    Attributes:
        dataset: name, fingerprint and number of images.
        settings: all of the run, nested.
        versions: of the programs, by name.
        steps: optimiser steps that the weights went through; None when no file says it.
        seconds: of training until then; None when no file says it.
        knn: per level, what the run's diagnostics measured at that step on the target encoder; empty: not measured.
    """

    dataset: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
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
    steps = state.get("steps", state.get("step"))
    found = state.get("measures", {}).get("knn") or _logged_knn(folder.parent.parent / "metrics.jsonl", steps)
    whole = isinstance(found, list) and len(found) == len(config["encoder"]["taps"])
    numbers = whole and all(isinstance(value, int | float) for value in found)
    return RunFacts(
        dataset=config["dataset"],
        settings=config.get("settings", {}),
        versions=config.get("versions", {}),
        steps=steps,
        seconds=state.get("seconds"),
        knn=tuple(float(value) for value in found) if numbers else (),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _logged_knn(path: Path, step: int | None) -> Any:
    """Return what `metrics.jsonl` says of exactly that step: other steps had other weights."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue  # The last line of a run that goes on may be half a line.
        if isinstance(found, dict) and found.get("step") == step and "knn" in found:
            return found["knn"]
    return None

"""What a run's own files say about how its weights came to be; what they do not say stays unsaid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

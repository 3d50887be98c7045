"""Checkpoint directories: written under another name and renamed, checked when read, the newest few and the best kept.

`RUN/checkpoints/step-00000500/` holds `config.json`, `encoder.safetensors`, `trainer.safetensors` and `state.json`,
which carries the sha256 of the others and of itself. Safetensors and JSON only: nothing in a checkpoint can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from hjepa_eval.encoders.weights import read_tensors
from hjepa_eval.errors import CheckpointError
from hjepa_eval.features.fingerprint import hash_json, parse_json

_FILES = ("config.json", "encoder.safetensors", "trainer.safetensors")
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        config: what `config.json` says about encoder, settings and dataset.
        encoder: tensors `context.*` and `target.*`.
        trainer: everything else that is needed to go on.
        state: JSON values such as step and seconds.
    """

    config: dict[str, Any]
    encoder: dict[str, Tensor]
    trainer: dict[str, Tensor]
    state: dict[str, Any]


def folder(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def to_json(value: Any) -> bytes:
    """Return indented JSON in bytes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors of any device as the bytes of a safetensors file."""
    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return content


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint, *, keep: int = 2, best: int | None = None) -> Path:
    """Write a checkpoint so that it is there whole or not at all; the newest `keep` stay, and that of step `best`.

    What lies after its step goes: a run that could not read those went on from an older one. So does what a process
    that was killed while it wrote has left.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full; older checkpoints stay.
    """
    target = folder(run_dir, int(checkpoint.state["step"]))
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    contents = {
        "config.json": to_json(checkpoint.config),
        "encoder.safetensors": tensor_bytes(checkpoint.encoder),
        "trainer.safetensors": tensor_bytes(checkpoint.trainer),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[_STATE] = to_json(
        {**checkpoint.state, "sha256": {**hashes, _STATE: _state_hash(checkpoint.state, hashes)}}
    )
    for left in target.parent.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with (unfinished / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _put(unfinished, target)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"cannot write the checkpoint {target}: {error.strerror}; older ones stay, "
                f"make room or repair the folder and go on with --resume {run_dir}"
            ) from None
        raise
    spared = None if best is None else folder(run_dir, best)
    earlier = [path for path in list_checkpoints(run_dir) if path.name <= target.name]
    for path in list_checkpoints(run_dir):
        if path not in (*earlier[-keep:], spared):
            shutil.rmtree(path)
    return target


def _put(new: Path, target: Path) -> None:
    """Rename a folder to `target`, with no more than a moment between an old one there and the new one."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        target.rename(replaced)
    new.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _state_hash(state: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """Return the sha256 of what `state.json` says, its own sha256 left out."""
    others = {name: value for name, value in state.items() if name != "sha256"}
    return hash_json({**others, "sha256": {name: hashes[name] for name in _FILES}})


def _read_state(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's `state.json`; an older version wrote none of its own sha256.

    Raises:
        CheckpointError: it is not what was written.
        OSError, ValueError, KeyError, TypeError: it cannot be read, or lacks something.
    """
    state = parse_json((path / _STATE).read_bytes())
    hashes = state["sha256"]
    if hashes.keys() - {*_FILES, _STATE} or hashes.get(_STATE, "") not in ("", _state_hash(state, hashes)):
        raise CheckpointError(f"{path / _STATE} is not what was written (its sha256 differs)")
    return dict(state)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the content of a checkpoint folder.

    Raises:
        CheckpointError: a file is absent, unreadable, or not the one that was written.
    """
    try:
        state = _read_state(path)
        for name in _FILES:
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != state["sha256"][name]:
                raise CheckpointError(f"{path / name} is not what was written (its sha256 differs)")
        config = parse_json((path / "config.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no whole checkpoint: {type(error).__name__} {error}") from None
    encoder, trainer = (read_tensors(path / name) for name in _FILES[1:])
    return Checkpoint(config, encoder, trainer, state)


def newest_checkpoint(run_dir: Path, *, say: Callable[[str], None]) -> Checkpoint:
    """Return the newest whole checkpoint of a run; damaged ones are passed over, and `say` is told.

    Raises:
        CheckpointError: there is none.
    """
    checkpoints = list_checkpoints(run_dir)
    for path in reversed(checkpoints):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            say(f"{error}; trying the checkpoint before it")
    damaged = f"; all {len(checkpoints)} are damaged" if checkpoints else ""
    raise CheckpointError(f"{run_dir} has no checkpoint to go on from{damaged}; begin another run with another --out")


def best_or_last(run_dir: Path, last: Checkpoint, *, best: int | None, say: Callable[[str], None]) -> Checkpoint:
    """Return the checkpoint of step `best`; when there is none, or it is damaged or gone, which `say` is told, `last`.

    The step in the `state` of what is returned tells which of the two it is.
    """
    if best is None or best == last.state["step"]:
        return last
    try:
        return read_checkpoint(folder(run_dir, best))
    except CheckpointError as error:
        say(f"{error}; the run ends with the weights of its last step, {last.state['step']}, instead of its best")
        return last

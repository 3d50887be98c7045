"""The checkpoint of a fine-tuning: one safetensors file, replaced after each epoch, with all it takes to go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from hjepa_eval.encoders.protocol import hash_tensors
from hjepa_eval.encoders.weights import ABOUT, checked_bytes, load_strict
from hjepa_eval.errors import CheckpointError, TrainingError, first_few
from hjepa_eval.features.fingerprint import differences, parse_json, write_atomically

FILE = "checkpoint.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """Where a fine-tuning stands.

    Attributes:
        identity: everything that its result depends on, as JSON values.
        curve: one entry per finished epoch.
        skipped: train images that could not be read, and why.
    """

    identity: dict[str, Any]
    curve: tuple[dict[str, float], ...] = ()
    skipped: tuple[str, ...] = ()


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write a safetensors file with the sha256 of its tensors, whole or not at all; the old one stays until then.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full.
    """
    try:
        write_atomically(path, checked_bytes(tensors, about))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; make room, or name another --run") from None


def save_checkpoint(run_dir: Path, model: nn.Module, optimizer: Optimizer, state: State) -> None:
    """Write the checkpoint of a run.

    Raises:
        CheckpointError: it cannot be written; the one before stays.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for place, parameter in enumerate(_parameters(optimizer)):
        tensors |= {f"adam.{place}.{name}": optimizer.state[parameter][name] for name in _MOMENTS}
    write_tensors(run_dir / FILE, tensors, asdict(state))


def restore(run_dir: Path, model: nn.Module, optimizer: Optimizer, identity: dict[str, Any]) -> State:
    """Set model and optimiser to where the run stood, and return that; the beginning if no epoch was finished.

    Raises:
        CheckpointError: the checkpoint is damaged.
        TrainingError: the run began with another identity; the message says what differs.
    """
    path = run_dir / FILE
    if not path.exists():
        return State(identity)
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        whole = about["sha256"] == hash_tensors(tensors)
        state = State(about["identity"], tuple(about["curve"]), tuple(about["skipped"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no whole checkpoint: {error}; begin again in another --run") from None
    if not whole:
        raise CheckpointError(f"{path} is not what was written (its sha256 differs); begin again in another --run")
    if changed := differences(state.identity, identity):
        raise TrainingError(
            f"{run_dir} began with other settings, weights or data: {first_few(changed)}; go on with what it began "
            "with, or begin another run"
        )
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    load_strict(model, weights, source=str(path))
    for place, parameter in enumerate(_parameters(optimizer)):
        moments = {name: tensors[f"adam.{place}.{name}"] for name in _MOMENTS}
        optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in moments.items()}
    return state


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

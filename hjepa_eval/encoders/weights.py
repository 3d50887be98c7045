"""Weights from files: safetensors, or foreign checkpoints read as plain tensors; every mismatch is an error."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hjepa_eval.errors import CheckpointError, first_few


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors in a `.safetensors` file or a PyTorch checkpoint.

    A checkpoint is read with `weights_only=True`, and its tensors are looked for under `state_dict` and `model` too;
    a leading `module.` is removed.

    Raises:
        CheckpointError: the file is absent, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        try:
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is not a checkpoint of plain tensors: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no named tensors, also not under 'state_dict' or 'model'")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_strict(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, ignore: Collection[str] = ()) -> None:
    """Copy `tensors` into `model`; nothing may be missing, left over, or of another shape.

    Args:
        model: module to fill.
        tensors: by the names of the model's state.
        source: where they come from, for the message.
        ignore: prefixes of names that may be left over, such as a classifier's.

    Raises:
        CheckpointError: they do not fit; the message lists the first five of each kind.
    """
    state = model.state_dict()
    missing = [name for name in state if name not in tensors]
    extra = [name for name in tensors if name not in state and not name.startswith(tuple(ignore))]
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(state[name].shape)}"
        for name in state
        if name in tensors and tensors[name].shape != state[name].shape
    ]
    problems = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    found = [f"{len(names)} {kind}: {first_few(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{source} does not fit the encoder; tensors {'; '.join(found)}")
    model.load_state_dict({name: tensors[name] for name in state})

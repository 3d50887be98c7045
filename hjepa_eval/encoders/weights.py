"""Weights from files: safetensors, or foreign checkpoints read as plain tensors; every mismatch is an error."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hjepa_eval.errors import CheckpointError, first_few


def read_tensors(path: Path, *, section: str | None = None) -> dict[str, Tensor]:
    """Return the named tensors in a `.safetensors` file or a PyTorch checkpoint.

    A checkpoint is read with `weights_only=True`, and without a `section` its tensors are looked for under
    `state_dict` and `model` too; a leading `module.` is removed. Tensors of a zipped checkpoint stay in the file until
    they are used, so the sections that nobody asks for, such as an optimizer's, take no memory.

    Args:
        path: the file.
        section: the key under which the checkpoint keeps the tensors.

    Raises:
        CheckpointError: the file is absent, damaged, has no such section, or holds anything but plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    if section is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(section), Mapping):
            found = first_few(content) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(f"{path} has no section {section!r} with tensors; it holds {found}")
        content = content[section]
    for key in ("state_dict", "model") if section is None else ():
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        where = f"in its section {section!r}" if section else "also not under 'state_dict' or 'model'"
        raise CheckpointError(f"{path} holds no named tensors, {where}")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    return tensors


def _read_checkpoint(path: Path) -> Any:
    try:
        # A zip archive has its table of contents at the end: with a zip's beginning and no such end, the rest is lost.
        whole = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04" and not whole:
                raise CheckpointError(
                    f"{path} is cut short after {path.stat().st_size} bytes; copy or download it again"
                )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # It is refused, or it is read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError as error:
        # torch's own text advises to read the file without weights_only, which is what must not happen.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it would run {code[1]}" if code else "it holds other Python objects"
        raise CheckpointError(
            f"{path} is not a checkpoint of plain tensors: {reason}; only a file of tensors and numbers is read"
        ) from None
    except (RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        # Bytes that are no pickle at all end in whatever error their first opcode happens to cause.
        raise CheckpointError(f"{path} is not a checkpoint of plain tensors: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__} {text.splitlines()[0]}" if text else type(error).__name__


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
